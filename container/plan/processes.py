"""What to run on this machine: how many fronts and engines, with how many threads. Pure."""

from __future__ import annotations

from dataclasses import dataclass

CPUS_PER_FRONT = 4  # one front feeds about 30,000 small requests/s; models need the rest of the CPUs


MIB = 1 << 20
QUEUE_BYTES_MAX = 1024 * MIB
QUEUE_BYTES_MIN = 16 * MIB
# Of what is left, a front may hold requests that come, the same again in slots, and answers that nobody has read yet. As much is
# for what an engine makes of the one that it runs: a handler that reads JSON takes three times the body.
QUEUE_SHARE = 4
# What our processes take without a request, measured with small models on a machine of 2 CPUs: gunicorn and the sidecar together,
# each front, each engine with ONNX Runtime; and of a model's files the copy that is read and the one that is unpacked.
IDLE_BYTES, FRONT_BYTES, ENGINE_BYTES, FILE_COPIES = 50 * MIB, 15 * MIB, 50 * MIB, 2


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    fronts: int
    engines: int
    threads: int  # per engine
    slots: int = 1  # sets of engine places, blue and green: 2 where a new version may load beside the one that serves
    devices: tuple[str, ...] = ()  # accelerators, each as CUDA_VISIBLE_DEVICES names it; `engines` is a multiple of their number

    @property
    def places(self) -> int:
        return self.slots * self.engines

    @property
    def sharers(self) -> int:
        """Engines of one version on each accelerator."""
        return self.engines // max(1, len(self.devices))

    def device(self, place: int) -> str:
        """What the engine at this place runs on; "": the CPUs. Both slots have the same devices."""
        return self.devices[place % len(self.devices)] if self.devices else ""

    def why(self, cpus: int) -> str:
        have = f"{cpus} CPUs" + (f", GPUs {' '.join(self.devices)}" if self.devices else "")
        each = f", {self.sharers} on each GPU" if self.devices else ""
        return f"{have}: {self.fronts} front, {self.engines} engine with {self.threads} threads each{each}"


def make(cpus: int, fronts: int, replicas: int, threads: int, slots: int = 1, devices: tuple[str, ...] = ()) -> ProcessPlan:
    """Zeros mean: choose. One replica that uses every CPU answers a lone request soonest and holds the model once. Where there
    are accelerators, `replicas` counts for each of them."""
    engines = (replicas or 1) * max(1, len(devices))
    fronts = fronts or max(1, min(8, cpus // CPUS_PER_FRONT))
    return ProcessPlan(fronts, engines, threads or max(1, cpus // engines), slots, devices)


def idle_bytes(the_plan: ProcessPlan, files_bytes: int) -> int:
    """What all processes will take when nothing is asked of them. `files_bytes`: of one model's files."""
    return IDLE_BYTES + the_plan.fronts * FRONT_BYTES + the_plan.engines * (ENGINE_BYTES + FILE_COPIES * files_bytes)


def queue_bytes(left_bytes: int, the_plan: ProcessPlan, files_bytes: int) -> int:
    """What each front may hold of requests, unless it is set. `left_bytes`: of memory, before anything runs."""
    share = (left_bytes - idle_bytes(the_plan, files_bytes)) // QUEUE_SHARE // the_plan.fronts
    return max(QUEUE_BYTES_MIN, min(QUEUE_BYTES_MAX, share))
