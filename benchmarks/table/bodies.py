"""What the requests of a workload hold, and what must come back. From fixed seeds: every server is sent the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np

from benchmarks.models import Array
from benchmarks.peers import work
from benchmarks.table.workloads import ONNX_MODELS, Workload

SEED = 20261129
SAMPLES = 64  # different bodies of a workload; a multiple of nothing else that repeats
SAMPLES_LARGE = 4  # of 100 kB and more
TEXTS = 4
PICTURE_BYTES = 150_000
WORDS = ["the", "steady", "ship", "keeps", "an", "even", "keel", "through", "wind", "and", "water", "while", "captains", "change"]
TOLERANCE = 1e-3  # of numbers: batches add up in another order, and JSON has 6 digits

Value = Array | list[str] | bytes | dict[str, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """`value`: rows, texts or a picture. `answer`: of the model, by something else than the servers."""

    value: Value
    answer: Value


def samples(workload: Workload, folder: Path) -> list[Sample]:
    random = np.random.default_rng(SEED)
    if workload.model in ONNX_MODELS:
        rows, answers = np.load(folder / "rows.npy"), np.load(folder / "answers.npy")
        return [Sample(rows[i], answers[i]) for i in _indexes(workload, len(rows), random)]
    if workload.model == "texts":
        return [_texts(random) for _ in range(SAMPLES)]
    if workload.model == "picture":
        pictures = [_picture(random) for _ in range(SAMPLES_LARGE)]
        return [Sample(p, work.describe(p)) for p in pictures]
    if workload.model == "tensor":
        tensors = [random.random((1, 3, 224, 224), np.float32) for _ in range(SAMPLES_LARGE)]
        return [Sample(t, work.average(t)) for t in tensors]
    tables = [random.random((n, work.COLUMNS), np.float32).round(6) for n in _lengths(workload, random)]
    return [Sample(t, work.predict(t)) for t in tables]


def _lengths(workload: Workload, random: np.random.Generator) -> list[int]:
    """Rows of each body: all of the range, in an order by chance, or the same number always."""
    least, most = workload.rows
    if least == most:
        return [least] * SAMPLES
    order: list[int] = random.permutation(np.arange(least, most + 1)).tolist()
    return order


def _indexes(workload: Workload, rows: int, random: np.random.Generator) -> list[Array]:
    """Which of the reference rows a body holds. A model with few of them has as few bodies."""
    lengths = _lengths(workload, random)
    starts = range(min(len(lengths), rows) if max(workload.rows) == 1 else len(lengths))
    return [np.arange(start, start + lengths[start]) % rows for start in starts]


def _texts(random: np.random.Generator) -> Sample:
    texts = [" ".join(random.choice(WORDS, size=random.integers(3, 30))) for _ in range(TEXTS)]
    return Sample(texts, [work.tag(t) for t in texts])


def _picture(random: np.random.Generator) -> bytes:
    """Begins and ends as a JPEG does; nobody looks at what is between."""
    return b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + random.bytes(PICTURE_BYTES - 13) + b"\xff\xd9"


def is_array(value: object) -> TypeGuard[Array]:
    return isinstance(value, np.ndarray)


def fault(found: Value, answer: Value) -> str | None:
    """What is wrong with what came back, or None."""
    if not is_array(answer):
        return None if found == answer else f"{str(found)[:100]} is not {str(answer)[:100]}"
    if not is_array(found):
        return f"{type(found).__name__} is no array"
    if found.shape != answer.shape:
        return f"shape {found.shape} is not {answer.shape}"
    if not np.allclose(found, answer, rtol=TOLERANCE, atol=TOLERANCE):
        return f"off by {np.abs(found - answer).max():.3g}"
    return None
