"""The way of one request through our files: one row, alone, warmed, from the bytes of its client to those of its answer.

Front and engine run in one process and take their turns by hand, so that `sys.setprofile` sees both. Counted are calls of
functions of ours in the order in which they are made. A reader who follows them opens `files` files, and goes back `returns`
times to one that he has left: fewer of both is a shorter story. The model is T, by ONNX Runtime.

usage: python -m benchmarks.request_path [--calls]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import FrameType

import numpy as np
import onnx

import evenkeel.serve
from benchmarks import models
from evenkeel.serve.contract.lifecycle import Reason, Verdict
from evenkeel.serve.engine.backends.base import LoadOptions
from evenkeel.serve.engine.models import replica
from evenkeel.serve.engine.models.replica import Replica
from evenkeel.serve.engine.models.warmup import Warmup
from tests.support.front_bench import FrontBench
from tests.support.line import Line
from tests.support.wire import request

WARM = 20  # requests before the one that is traced: by then heads are remembered, and it is known to be alone
OURS = str(Path(evenkeel.serve.__file__).parent)


@dataclass(frozen=True, slots=True)
class Call:
    file: str
    function: str


@dataclass(slots=True)
class RequestPath:
    """The calls in order."""

    calls: list[Call] = field(default_factory=list)

    @property
    def visits(self) -> list[str]:
        """The files in the order in which a reader opens them; one that is there already is not opened."""
        return [file for file, _ in groupby(call.file for call in self.calls)]

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(self.visits))

    @property
    def returns(self) -> int:
        return len(self.visits) - len(self.files)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        def note(frame: FrameType, event: str, argument: object) -> None:
            code = frame.f_code
            if event == "call" and code.co_filename.startswith(OURS):
                self.calls.append(Call(code.co_filename[len(OURS) + 1 :], code.co_qualname))

        sys.setprofile(note)
        try:
            yield
        finally:
            sys.setprofile(None)


def tiny(folder: Path) -> Replica:
    onnx.save(models.onnx_model("T"), str(folder / "model.onnx"))
    made = replica.load(folder, LoadOptions(threads=1))
    Warmup(made, [], lambda done, total, what: None).run()
    return made


def trace() -> RequestPath:
    path = RequestPath()
    with tempfile.TemporaryDirectory() as folder:
        made = tiny(Path(folder))
        assert made.inputs is not None, "T takes tensors"
        row = models.instances(np.zeros((1, *made.inputs.dims[0]), np.float32))
        with FrontBench(lambda: made) as bench:
            bench.page.write_verdict(Verdict(True, Reason.READY), 1.0)
            line = Line(bench)
            for n in range(WARM):
                line.send(request(row))
                line.until(lambda n=n: line.heard.count(b"HTTP/1.1 200") > n)
                bench.clock.advance(1.0)
            line.client.send(request(row))
            with path.recorded():
                bench.step_front()
                bench.engines[0].turn()
                bench.step_front()
            line.until(lambda: line.heard.count(b"HTTP/1.1 200") > WARM)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", action="store_true", help="each call in order, not only each file")
    path = trace()
    if parser.parse_args().calls:
        for call in path.calls:
            print(f"{call.file:45} {call.function}")
    seen: set[str] = set()
    for file in path.visits:
        print(f"{'back to ' if file in seen else '        '}{file}")
        seen.add(file)
    print(f"{len(path.calls)} calls, {len(path.files)} files, {path.returns} returns into a file that was left")


if __name__ == "__main__":
    main()
