"""Faults on purpose, around a backend: they hit the batches that were named and leave the others alone."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest

from evenkeel.serve.contract.fault_grammar import PlannedFault
from evenkeel.serve.engine.backends.base import Capabilities, RawReply, RawRequest
from evenkeel.serve.engine.models import fault_injection
from evenkeel.serve.engine.models.fault_injection import FaultyHandler, FaultyTensors, Injector
from evenkeel.serve.errors import BadModel
from tests.support.log_read import logged
from tests.support.models import ScriptedBackend, ScriptedHandler, raw_replica, replica, signature, spec, twice_plus_one

SIG = signature([spec("x", 2)], [spec("y", 2)])
ROWS = [np.array([[1, 2], [3, 4]], np.float32)]


def faulty(*wanted: PlannedFault) -> FaultyTensors:
    return FaultyTensors(ScriptedBackend(SIG, twice_plus_one), Injector(wanted, chance=lambda: 0.5), "as wanted")


def test_nan_spoils_the_first_row_of_the_named_batches_only() -> None:
    backend = faulty(PlannedFault("nan", every=2))
    assert backend.run(ROWS)[0].tolist() == [[3, 5], [7, 9]]
    spoilt = backend.run(ROWS)[0]
    assert np.isnan(spoilt[0]).all() and spoilt[1].tolist() == [7, 9]
    assert backend.run(ROWS)[0].tolist() == [[3, 5], [7, 9]]


def test_nan_leaves_outputs_that_cannot_hold_one() -> None:
    backend = FaultyTensors(
        ScriptedBackend(SIG, lambda _: [np.array([1]), np.array(2.0)]), Injector([PlannedFault("nan", at=1)]), ""
    )
    whole, real = backend.run(ROWS)
    assert whole.tolist() == [1] and np.isnan(real)


def test_the_backends_own_answer_is_never_written_to() -> None:
    answer = np.ones((2, 2), np.float32)
    backend = FaultyTensors(ScriptedBackend(SIG, lambda _: [answer]), Injector([PlannedFault("nan", every=1)]), "")
    backend.run(ROWS)
    assert answer.tolist() == [[1, 1], [1, 1]]


def test_out_of_memory_is_raised_as_by_a_model_and_the_next_batch_runs() -> None:
    backend = faulty(PlannedFault("oom", at=1))
    with pytest.raises(MemoryError):
        backend.run(ROWS)
    assert backend.run(ROWS)[0].tolist() == [[3, 5], [7, 9]]


def test_slow_takes_its_time_and_answers_right(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("evenkeel.serve.engine.models.fault_injection.time.sleep", slept.append)
    backend = faulty(PlannedFault("slow", rate=0.6, ms=200), PlannedFault("slow", rate=0.4, ms=300))
    assert backend.run(ROWS)[0].tolist() == [[3, 5], [7, 9]]
    assert slept == [0.2], "a chance of 0.5 is below the one rate and above the other"


@pytest.mark.parametrize(("kind", "signum"), [("crash", signal.SIGSEGV)])
def test_a_crash_ends_the_process_by_its_signal(kind: str, signum: int) -> None:
    begin = f"from evenkeel.serve.engine.models.fault_injection import *; faults = [PlannedFault({kind!r}, at=2)]; "
    one = "Injector(faults).next_batch() or print('one', flush=True); "
    both = begin + one + "i = Injector(faults); i.next_batch(); i.next_batch()"
    ended = subprocess.run([sys.executable, "-c", both], capture_output=True, text=True, timeout=60)
    assert ended.returncode == -signum
    assert ended.stdout.splitlines()[0] == "one" and '"event": "fault_injected"' in ended.stdout.splitlines()[1]


def test_a_hang_does_not_end() -> None:
    code = "from evenkeel.serve.engine.models.fault_injection import *; Injector([PlannedFault('hang', at=1)]).next_batch()"
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=3)


def test_faults_that_come_with_every_batch_do_not_fill_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    backend = faulty(PlannedFault("nan", every=1))
    for _ in range(500):
        backend.run(ROWS)
    assert 1 <= logged(capfd).count("fault_injected") < 250


def test_a_handlers_requests_each_get_the_fault() -> None:
    scripted = ScriptedHandler(lambda requests: [RawReply(r.body, "text/plain") for r in requests])
    scripted.capabilities = Capabilities(batched=True, reads_headers=True)
    backend = FaultyHandler(scripted, Injector([PlannedFault("oom", at=1)]), "oom:at=1")  # type: ignore[arg-type]
    requests = [RawRequest(b"a", "text/plain", "", "1"), RawRequest(b"b", "text/plain", "", "2")]
    assert [type(r) for r in backend.handle(requests)] == [MemoryError, MemoryError]
    assert [r.body for r in backend.handle(requests) if isinstance(r, RawReply)] == [b"a", b"b"]
    assert backend.capabilities is scripted.capabilities


def test_apply_wraps_the_backend_and_says_so_among_its_facts() -> None:
    one = replica(SIG)
    fault_injection.apply(one, "crash:at=900")
    assert isinstance(one.backend, FaultyTensors) and one.backend.signature is SIG
    assert one.backend.describe() == {"framework": "scripted", "faults": "crash:at=900"}


def test_nan_is_refused_for_a_handler() -> None:
    with pytest.raises(BadModel, match="EVENKEEL_FAULTS: nan needs"):
        fault_injection.apply(raw_replica(lambda _: []), "nan:every=1")
