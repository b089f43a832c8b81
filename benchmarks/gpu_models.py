"""The models of benchmarks/gpu.py, with weights from a fixed seed, and how fast each is by itself on the device.

`python -m benchmarks.gpu_models make|bare <works> <folder> [--tiny]`: a process of its own, so that nobody holds the device while
a server is measured. `make` writes for each work a folder that can be served, with requests and their right answers, and one
beside it with CUDA graphs. `bare` prints what the model does with data that lies on the device, by CUDA graphs, at each batch
size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

CNN, ENCODER = "cnn", "encoder"
NOTHING = "nothing"  # takes what the CNN takes, answers as much, and computes next to nothing
SEED, WORDS = 7, 30000
LENGTHS = (16, 64, 112, 160, 208, 256)
PROBES = 2 * len(LENGTHS)  # as many of each: the bare model's rate is that of this mixture
GRAPHS = "-graphs"  # at the end of a folder's name
IMAGES_TOML = (
    'backend = "pytorch"\n[batching]\nrows_max = {rows_max}\n[[inputs]]\nname = "x"\ndtype = "uint8"\n'
    'shape = ["rows", {size}, {size}, 3]\n'
)
TOML = {
    CNN: IMAGES_TOML,
    NOTHING: IMAGES_TOML,
    ENCODER: 'backend = "pytorch"\n[batching]\nrows_max = {rows_max}\nslo_ms = 50\n[[inputs]]\nname = "ids"\n'
    'dtype = "int64"\nshape = ["rows", "n"]\npad = 0\n',
}


class Block(nn.Module):
    """A bottleneck of ResNet-50."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(inside, width, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, out, 1), nn.BatchNorm2d(out))  # fmt: skip
        self.short = nn.Identity() if inside == out and stride == 1 else nn.Conv2d(inside, out, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.short(x))


class Cnn(nn.Module):
    """ResNet-50's size and shape, in bfloat16, over images of bytes."""

    def __init__(self, tiny: bool) -> None:
        super().__init__()
        depths, width = ((1, 1), 4) if tiny else ((3, 4, 6, 3), 64)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        inside = width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                layers.append(Block(inside, width << stage, 2 if i == 0 and stage else 1))
                inside = 4 * (width << stage)
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(inside, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.permute(0, 3, 1, 2).to(torch.bfloat16) / 255.0
        return self.head(self.layers(y).mean((2, 3))).float()


class Nothing(nn.Module):
    """What is left of serving the CNN without the CNN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0, 0, :1].float() + torch.zeros(1000, device=x.device)


class Encoder(nn.Module):
    """BERT-base's size, in bfloat16. Word 0 is padding, and changes no answer."""

    def __init__(self, tiny: bool) -> None:
        super().__init__()
        layers, width, self.heads = (2, 32, 2) if tiny else (12, 768, 12)
        self.words, self.places = nn.Embedding(WORDS, width), nn.Embedding(512, width)
        self.blocks = nn.ModuleList([
            nn.ModuleList([nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width), nn.LayerNorm(width),
                           nn.Linear(width, 4 * width), nn.Linear(4 * width, width)]) for _ in range(layers)])  # fmt: skip

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows, n = ids.shape
        there = ids != 0
        y = self.words(ids) + self.places(torch.arange(n, device=ids.device))
        for before, qkv, out, then, up, down in self.blocks:  # type: ignore[misc]
            q, k, v = qkv(before(y)).view(rows, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None, :])
            y = y + out(seen.transpose(1, 2).reshape(rows, n, -1))
            y = y + down(nn.functional.gelu(up(then(y))))
        weight = there.unsqueeze(-1).to(y.dtype)
        return ((y * weight).sum(1) / weight.sum(1).clamp(min=1)).float()


def made(work: str, tiny: bool) -> nn.Module:
    torch.manual_seed(SEED)
    if work == NOTHING:
        return Nothing()
    if work == ENCODER:
        return Encoder(tiny).to(torch.bfloat16).eval()
    return Cnn(tiny).to(torch.bfloat16, memory_format=torch.channels_last).eval()  # as the images lie in memory


def size_of(tiny: bool) -> int:
    return 32 if tiny else 224


def inputs(work: str, rows: int, tiny: bool, length: int = 0) -> torch.Tensor:
    if work != ENCODER:
        return torch.randint(0, 256, (rows, size_of(tiny), size_of(tiny), 3), dtype=torch.uint8)
    return torch.randint(1, WORDS, (rows, length or 64))


def make(work: str, folder: Path, tiny: bool) -> None:
    """The folders, and probes: request i and its answer by the model alone, at batch 1. They are warm-up's samples too,
    since it has to know the lengths that will be asked for."""
    model = made(work, tiny)
    rows = torch.export.Dim("rows", min=1, max=1024)
    shapes = {0: rows} if work != ENCODER else {0: rows, 1: torch.export.Dim("n", min=2, max=512)}
    with torch.inference_mode():
        program = torch.export.export(model, (inputs(work, 3, tiny, 24),), dynamic_shapes=(shapes,))
    folder.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, folder / "model.pt2")
    samples = [f'[[samples]]\ninput = "probes/{i}.x.npy"\n' for i in range(len(LENGTHS) if work == ENCODER else 1)]
    toml = "".join((TOML[work].format(size=size_of(tiny), rows_max=8 if tiny else 128), *samples))
    (folder / "model.toml").write_text(toml)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    (folder / "probes").mkdir(exist_ok=True)
    for i in range(PROBES):
        x = inputs(work, 1, tiny, LENGTHS[i % len(LENGTHS)])
        with torch.inference_mode():
            y = model(x.to(device)).cpu()
        np.save(folder / "probes" / f"{i}.x.npy", x.numpy())
        np.save(folder / "probes" / f"{i}.y.npy", y.numpy())
    shutil.copytree(folder, f"{folder}{GRAPHS}", copy_function=os.link, dirs_exist_ok=True)
    (Path(f"{folder}{GRAPHS}") / "model.toml").unlink()
    (Path(f"{folder}{GRAPHS}") / "model.toml").write_text(f"{toml}[gpu]\ngraphs = true\n")


def seconds_of(run: Callable[[], Any], wait: Callable[[], Any], for_s: float) -> float:
    """Of one run, by many in a row."""
    run()
    wait()
    times, begun_s = 0, time.perf_counter()
    while time.perf_counter() - begun_s < for_s:
        for _ in range(4):
            run()
        wait()
        times += 4
    return (time.perf_counter() - begun_s) / times


def bare(work: str, tiny: bool) -> dict[str, Any]:
    """`rates`: images or words a second by length and batch size; `alone_s`: one request, to the device and
    back, the median over lengths."""
    cuda = torch.cuda.is_available()
    device, wait = ("cuda", torch.cuda.synchronize) if cuda else ("cpu", lambda: None)
    model = made(work, tiny).to(device)
    lengths = LENGTHS if work == ENCODER else (1,)
    sizes = (1, 4) if tiny else (1, 8, 32, 64, 128, 256) if work == CNN else (1, 8, 32, 128)
    found: dict[str, Any] = {"graphs": cuda, "rates": {}}
    with torch.inference_mode():
        for length in lengths:
            for rows in sizes:
                x = inputs(work, rows, tiny, length).to(device)
                run = captured(model, x) if cuda else (lambda x=x: model(x))
                took_s = seconds_of(run, wait, 0.1 if tiny else 0.4)
                found["rates"].setdefault(str(length), {})[str(rows)] = rows * length / took_s
        hosts = [inputs(work, 1, tiny, length) for length in lengths]
        times = sorted(seconds_of(lambda x=x: model(x.to(device)).cpu(), wait, 0.2) for x in hosts)
        found["alone_s"] = times[len(times) // 2]
    return found


def captured(model: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(x)
    return graph.replay


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("make", "bare"))
    parser.add_argument("works", help="separated by commas")
    parser.add_argument("folder", type=Path, help="of them all")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.what == "bare":
        json.dump(bare(args.works, args.tiny), sys.stdout)
        return
    for work in args.works.split(","):
        make(work, args.folder / work, args.tiny)


if __name__ == "__main__":
    main()
