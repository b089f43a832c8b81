"""What to run on this machine: how many fronts and engines, with how many threads. Pure."""

from __future__ import annotations

from dataclasses import dataclass

CPUS_PER_FRONT = 4  # one front feeds about 30,000 small requests/s; models need the rest of the CPUs


@dataclass(frozen=True, slots=True)
class Plan:
    fronts: int
    engines: int
    threads: int  # per engine
    lanes: int = 1  # sets of engine places: 2 where a new version may load beside the one that serves
    devices: tuple[str, ...] = ()  # accelerators, each as CUDA_VISIBLE_DEVICES names it; `engines` is a multiple of their number

    @property
    def places(self) -> int:
        return self.lanes * self.engines

    @property
    def sharers(self) -> int:
        """Engines of one version on each accelerator."""
        return self.engines // max(1, len(self.devices))

    def device(self, place: int) -> str:
        """What the engine at this place runs on; "": the CPUs. Both lanes have the same devices."""
        return self.devices[place % len(self.devices)] if self.devices else ""

    def why(self, cpus: int) -> str:
        have = f"{cpus} CPUs" + (f", GPUs {' '.join(self.devices)}" if self.devices else "")
        each = f", {self.sharers} on each GPU" if self.devices else ""
        return f"{have}: {self.fronts} front, {self.engines} engine with {self.threads} threads each{each}"


def make(cpus: int, fronts: int, replicas: int, threads: int, lanes: int = 1, devices: tuple[str, ...] = ()) -> Plan:
    """Zeros mean: choose. One replica that uses every CPU answers a lone request soonest and holds the model once. Where there
    are accelerators, `replicas` counts for each of them."""
    engines = (replicas or 1) * max(1, len(devices))
    fronts = fronts or max(1, min(8, cpus // CPUS_PER_FRONT))
    return Plan(fronts, engines, threads or max(1, cpus // engines), lanes, devices)
