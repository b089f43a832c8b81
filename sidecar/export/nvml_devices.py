"""The accelerators of this machine, as NVML tells of them: temperature, clocks, memory, errors, and why they are slow.

The only file that knows NVML. Where the package (`nvidia-ml-py`, the extra `gpu`), the driver or a device is missing there
is nothing to tell and nothing wrong. The driver may take seconds to answer when a device is ill, so a thread of its own asks
it, and puts the answer on the status page; nobody waits. What a device cannot tell is absent. How many Xid errors there were
is remembered on the page, where the next sidecar finds it.
"""

from __future__ import annotations

import importlib
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from evenkeel.serve.contract.logline import log
from evenkeel.serve.contract.status_page import DEVICE_TEXT, Main, StatusPage

EVERY_S = 5.0
XIDS_EVERY_S = 0.5  # they cost nothing to look for, and an engine on a lost device must not go on
# Xid errors after which a process on that device gets nothing right any more, those with which NVIDIA's DCGM
# (DcgmHealthWatch.cpp) calls a device failed: uncorrectable memory, a page or row that cannot be retired, NVLink, off the bus,
# GSP. Others are counted: what one process did wrong (13, 31, 43, 45) shows in its own CUDA errors, and ends that one.
FATAL_XIDS = frozenset({48, 64, 74, 79, 95, 119, 120, 140})
DEVICES_MAX = 16  # shown; a machine of SageMaker has 8
NAME_CHARS_MAX = 128
XIDS_A_LOOK_MAX = 100  # taken in one look; a device that fails without end must not hold up the rest
# Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h) that slow a device which has work to do. Idle and chosen clocks are
# no fault and not told.
THROTTLED = {"power_cap": 0x04, "hardware": 0x08, "thermal_software": 0x20, "thermal_hardware": 0x40, "power_brake": 0x80}

Told = dict[str, Any]


class Devices:
    """Asks `nvml`, a module with the functions of pynvml. Raises whatever that raises when there is no driver."""

    def __init__(self, nvml: Any, before: Told) -> None:
        """`before`: what a predecessor told last."""
        self._nvml = nvml
        nvml.nvmlInit()
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(min(nvml.nvmlDeviceGetCount(), DEVICES_MAX))]
        self._uuids = [_text(self._maybe(nvml.nvmlDeviceGetUUID, h)) for h in self._handles]
        earlier = {d.get("uuid"): d for d in before.get("devices", ())}
        self._xids = [int(earlier.get(uuid, {}).get("xid_errors", 0)) for uuid in self._uuids]
        self._fatal = [int(earlier.get(uuid, {}).get("fatal_xids", 0)) for uuid in self._uuids]
        self._last_xid = [earlier.get(uuid, {}).get("last_xid") for uuid in self._uuids]
        self._events = self._listen()

    @property
    def faults(self) -> int:
        """Fatal errors so far, over all devices."""
        return sum(self._fatal)

    def look(self) -> Told:
        self.take_xids()
        return {"devices": [self._one(i, handle) for i, handle in enumerate(self._handles)]}

    def _one(self, place: int, h: Any) -> Told:
        nvml, maybe = self._nvml, self._maybe
        memory, used = maybe(nvml.nvmlDeviceGetMemoryInfo, h), maybe(nvml.nvmlDeviceGetUtilizationRates, h)
        power, slow = maybe(nvml.nvmlDeviceGetPowerUsage, h), maybe(nvml.nvmlDeviceGetCurrentClocksEventReasons, h)
        clocks = {"sm": maybe(nvml.nvmlDeviceGetClockInfo, h, nvml.NVML_CLOCK_SM),
                  "memory": maybe(nvml.nvmlDeviceGetClockInfo, h, nvml.NVML_CLOCK_MEM)}  # fmt: skip
        ecc = {"corrected": self._ecc(h, nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
               "uncorrected": self._ecc(h, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED)}  # fmt: skip
        return {
            "place": place, "uuid": self._uuids[place], "name": _text(maybe(nvml.nvmlDeviceGetName, h)),
            "temperature_celsius": maybe(nvml.nvmlDeviceGetTemperature, h, nvml.NVML_TEMPERATURE_GPU),
            "memory_used_bytes": memory and memory.used, "memory_bytes": memory and memory.total,
            "utilisation": None if used is None else used.gpu / 100, "power_watts": None if power is None else power / 1000,
            "clock_hertz": {name: mhz * 1_000_000 for name, mhz in clocks.items() if mhz is not None},
            "ecc_errors": {kind: n for kind, n in ecc.items() if n is not None},
            "throttled": {} if slow is None else {reason: int(bool(slow & bit)) for reason, bit in THROTTLED.items()},
            "xid_errors": self._xids[place] if self._events is not None else None, "last_xid": self._last_xid[place],
            "fatal_xids": self._fatal[place],
        }  # fmt: skip

    def _ecc(self, h: Any, kind: int) -> Any:
        return self._maybe(self._nvml.nvmlDeviceGetTotalEccErrors, h, kind, self._nvml.NVML_VOLATILE_ECC)

    def _maybe(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """None: this device, or this driver, does not tell."""
        try:
            return ask(*arguments)
        except self._nvml.NVMLError:
            return None

    # ---- Xid errors are events: they are gone unless somebody listens -----------------------------------------------------

    def _listen(self) -> Any:
        """None: a driver or a sandbox without events."""
        nvml = self._nvml
        try:
            events = nvml.nvmlEventSetCreate()
            for handle in self._handles:
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
        except nvml.NVMLError:
            return None
        return events

    def take_xids(self) -> None:
        for _ in range(XIDS_A_LOOK_MAX if self._events is not None else 0):
            event = self._maybe(self._nvml.nvmlEventSetWait, self._events, 0)
            if event is None:  # NVML's timeout: nothing more has happened
                return
            uuid, xid = _text(self._maybe(self._nvml.nvmlDeviceGetUUID, event.device)), int(event.eventData)
            if uuid in self._uuids:
                place = self._uuids.index(uuid)
                self._xids[place] += 1
                self._fatal[place] += xid in FATAL_XIDS
                self._last_xid[place] = xid
                log("device_error", f"device {place} reports Xid {xid}", level="error", device=place, xid=xid)


def start(page: StatusPage, stop: threading.Event) -> None:
    threading.Thread(target=watch, args=(page, stop), name="device", daemon=True).start()


def watch(page: StatusPage, stop: threading.Event, every_s: float = EVERY_S) -> None:
    """Until told to stop. An error of ours, or of the driver, ends this thread and nothing else: its words go from the page."""
    devices = find(page.read_text(DEVICE_TEXT))
    if devices is None:
        return
    try:
        while True:
            page.write_text(DEVICE_TEXT, devices.look())
            page.main.count[Main.DEVICE_FAULTS] = devices.faults  # after the text that says which
            looked_s, faults = time.monotonic(), devices.faults
            while devices.faults == faults and time.monotonic() - looked_s < every_s:
                if stop.wait(min(XIDS_EVERY_S, every_s)):
                    return
                devices.take_xids()
    except Exception as e:
        page.write_text(DEVICE_TEXT, {})
        log("device_unknown", f"no more is told of devices: {e!r}", level="error", trace=traceback.format_exc(limit=-4))


def find(before: Told) -> Devices | None:
    """None: no package, no driver or no device."""
    try:
        nvml = importlib.import_module("pynvml")
        return Devices(nvml, before)
    except ImportError:
        return None
    except Exception as e:  # NVMLError, whose class only the module knows
        if not type(e).__name__.startswith("NVMLError"):
            log("device_unknown", f"nothing is told of devices: {e!r}", level="warning")
        return None


def _text(value: object) -> str:
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or ""))[:NAME_CHARS_MAX]
