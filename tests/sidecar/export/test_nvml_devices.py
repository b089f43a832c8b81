"""What the sidecar says of accelerators, from an NVML that follows a script."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from evenkeel.serve.contract.status_page import DEVICE_TEXT, Main, StatusPage
from evenkeel.sidecar.export import nvml_devices
from evenkeel.sidecar.watch import snapshot
from evenkeel.sidecar.watch.snapshot import Remembered, Snapshot
from tests.support.scrape import Scrape
from tests.support.tree import eventually


class NVMLError(Exception):
    pass


class ScriptedNvml(ModuleType):
    """The functions of pynvml that device.py calls. `silent` names those that this driver does not know."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_VOLATILE_ECC = 1, 2, 0, 0
    NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 0, 1
    nvmlEventTypeXidCriticalError = 8

    def __init__(self, devices: int = 1) -> None:
        super().__init__("pynvml")
        self.devices, self.celsius, self.reasons = devices, 41, 0x01
        self.silent: set[str] = set()
        self.xids: list[tuple[int, int]] = []
        self.listening: list[int] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("nvml") and callable(found) and name in self.silent:
            return self._not_supported
        return found

    def _not_supported(self, *unused: Any) -> Any:
        raise NVMLError("Not Supported")

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return self.devices

    def nvmlDeviceGetHandleByIndex(self, place: int) -> int:
        return place

    def nvmlDeviceGetUUID(self, h: int) -> str:
        return f"GPU-{h}"

    def nvmlDeviceGetName(self, h: int) -> bytes:
        return b"NVIDIA T4"

    def nvmlDeviceGetTemperature(self, h: int, sensor: int) -> int:
        return self.celsius + h

    def nvmlDeviceGetMemoryInfo(self, h: int) -> Any:
        return SimpleNamespace(total=16 << 30, used=3 << 30)

    def nvmlDeviceGetUtilizationRates(self, h: int) -> Any:
        return SimpleNamespace(gpu=75, memory=10)

    def nvmlDeviceGetPowerUsage(self, h: int) -> int:
        return 68_500

    def nvmlDeviceGetClockInfo(self, h: int, kind: int) -> int:
        return {self.NVML_CLOCK_SM: 1590, self.NVML_CLOCK_MEM: 5000}[kind]

    def nvmlDeviceGetCurrentClocksEventReasons(self, h: int) -> int:
        return self.reasons

    def nvmlDeviceGetTotalEccErrors(self, h: int, kind: int, counter: int) -> int:
        return {self.NVML_MEMORY_ERROR_TYPE_CORRECTED: 5, self.NVML_MEMORY_ERROR_TYPE_UNCORRECTED: 1}[kind]

    def nvmlEventSetCreate(self) -> str:
        return "events"

    def nvmlDeviceRegisterEvents(self, h: int, kinds: int, events: str) -> None:
        self.listening.append(h)

    def nvmlEventSetWait(self, events: str, timeout_ms: int) -> Any:
        if not self.xids:
            raise NVMLError("Timeout")
        place, xid = self.xids.pop(0)
        return SimpleNamespace(device=place, eventData=xid)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> ScriptedNvml:
    nvml = ScriptedNvml(devices=2)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return nvml


def test_a_device_is_told_on_the_page_in_metrics_and_in_status(nvml: ScriptedNvml) -> None:
    page = StatusPage.create()
    nvml.reasons = 0x01 | 0x04 | 0x40
    stop = threading.Event()
    stop.set()
    nvml_devices.watch(page, stop)
    told = Scrape.of_page(page)
    values = {"temperature_celsius": 42, "memory_used_bytes": 3 << 30, "memory_bytes": 16 << 30, "utilization_ratio": 0.75,
              "power_watts": 68.5, "xid_errors_total": 0}  # fmt: skip
    for name, value in values.items():
        assert told.of(f"evenkeel_device_{name}", device="1") == value, name
    named = [s.labels for s in told.samples if s.name == "evenkeel_device_info"]
    assert named[0] == {"device": "0", "uuid": "GPU-0", "name": "NVIDIA T4"} and len(named) == 2
    assert told.of("evenkeel_device_clock_hertz", device="0", clock="sm") == 1.59e9
    assert told.of("evenkeel_device_ecc_errors_total", device="0", kind="uncorrected") == 1
    slow = {reason: told.of("evenkeel_device_throttled", device="0", reason=reason) for reason in nvml_devices.THROTTLED}
    assert slow == {"power_cap": 1, "hardware": 0, "thermal_software": 0, "thermal_hardware": 1, "power_brake": 0}
    devices = snapshot.status(page, Snapshot(1.0, 1.0), Remembered())["devices"]
    assert [d["temperature_celsius"] for d in devices] == [41, 42]


def test_what_a_driver_does_not_tell_is_absent_and_no_error(nvml: ScriptedNvml) -> None:
    page = StatusPage.create()
    nvml.silent = {name for name in dir(type(nvml)) if name.startswith("nvmlDeviceGet")}
    nvml.silent -= {"nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"}
    nvml.silent.add("nvmlEventSetCreate")
    stop = threading.Event()
    stop.set()
    nvml_devices.watch(page, stop)
    told = {n for n in Scrape.of_page(page).names if n.startswith("evenkeel_device")}
    assert told == {"evenkeel_device_info"}


@pytest.mark.parametrize("what", ["no package", "no driver", "no device"])
def test_without_package_driver_or_device_nothing_is_told_and_nothing_is_wrong(
    nvml: ScriptedNvml, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    if what == "no package":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    elif what == "no driver":
        nvml.silent.add("nvmlInit")
    else:
        nvml.devices = 0
    page, stop = StatusPage.create(), threading.Event()
    stop.set()
    nvml_devices.watch(page, stop)
    assert not any(n.startswith("evenkeel_device") for n in Scrape.of_page(page).names)
    assert snapshot.status(page, Snapshot(1.0, 1.0), Remembered())["devices"] == []
    assert capfd.readouterr() == ("", "")


def test_the_real_package_without_a_driver_tells_nothing() -> None:
    pytest.importorskip("pynvml")
    if not Path("/dev/nvidiactl").exists():
        assert nvml_devices.find({}) is None


def test_xid_errors_are_counted_by_device_and_a_successor_counts_on(nvml: ScriptedNvml) -> None:
    first = nvml_devices.Devices(nvml, {})
    assert nvml.listening == [0, 1]
    nvml.xids = [(1, 79), (0, 13), (1, 48)]
    told = first.look()
    assert [(d["xid_errors"], d["last_xid"]) for d in told["devices"]] == [(1, 13), (2, 48)]
    successor = nvml_devices.Devices(nvml, told)
    nvml.xids = [(1, 31)]
    assert [(d["xid_errors"], d["last_xid"]) for d in successor.look()["devices"]] == [(1, 13), (3, 31)]
    assert [d["fatal_xids"] for d in successor.look()["devices"]] == [0, 2] and successor.faults == 2


def test_a_fatal_xid_is_told_at_once_and_one_of_an_application_is_not(nvml: ScriptedNvml) -> None:
    page, stop = StatusPage.create(), threading.Event()
    watching = threading.Thread(target=nvml_devices.watch, args=(page, stop, 30.0))
    watching.start()
    try:
        eventually(lambda: page.read_text(DEVICE_TEXT).get("devices"), "the devices are told")
        nvml.xids = [(0, 31)]
        time.sleep(2 * nvml_devices.XIDS_EVERY_S)
        assert page.main.count[Main.DEVICE_FAULTS] == 0
        nvml.xids = [(0, 79)]
        eventually(lambda: page.main.count[Main.DEVICE_FAULTS] == 1, "the fault is told")
        assert page.read_text(DEVICE_TEXT)["devices"][0]["fatal_xids"] == 1
    finally:
        stop.set()
        watching.join()


def test_a_device_that_fails_without_end_holds_up_one_look_only_so_long(nvml: ScriptedNvml) -> None:
    devices = nvml_devices.Devices(nvml, {})
    nvml.xids = [(0, 31)] * 1000
    assert devices.look()["devices"][0]["xid_errors"] == nvml_devices.XIDS_A_LOOK_MAX


def test_an_ill_driver_ends_the_telling_and_not_the_sidecar(nvml: ScriptedNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    page, stop = StatusPage.create(), threading.Event()
    thread = threading.Thread(target=nvml_devices.watch, args=(page, stop, 0.01))
    thread.start()
    eventually(lambda: page.read_text(DEVICE_TEXT).get("devices"), "it tells")

    def broken(h: int) -> Any:
        raise OSError("the driver has gone")

    monkeypatch.setattr(nvml, "nvmlDeviceGetPowerUsage", broken, raising=False)
    thread.join(20)
    assert not thread.is_alive() and page.read_text(DEVICE_TEXT) == {}


def test_sixteen_devices_with_long_names_fit_on_the_page(nvml: ScriptedNvml) -> None:
    nvml.devices = 40
    nvml.nvmlDeviceGetName = lambda h: "x" * 1000  # type: ignore[method-assign]
    page, stop = StatusPage.create(), threading.Event()
    stop.set()
    nvml_devices.watch(page, stop)
    assert len(page.read_text(DEVICE_TEXT)["devices"]) == nvml_devices.DEVICES_MAX


def test_a_driver_that_hangs_holds_up_nobody(nvml: ScriptedNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    monkeypatch.setattr(nvml, "nvmlInit", lambda: stop.wait(30), raising=False)
    before_s = time.monotonic()
    nvml_devices.start(StatusPage.create(), stop)
    assert time.monotonic() - before_s < 10
    stop.set()
