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

    @property
    def places(self) -> int:
        return self.lanes * self.engines

    def why(self, cpus: int) -> str:
        return f"{cpus} CPUs: {self.fronts} front, {self.engines} engine with {self.threads} threads each"


def make(cpus: int, fronts: int, replicas: int, threads: int, lanes: int = 1) -> Plan:
    """Zeros mean: choose. One replica that uses every CPU answers a lone request soonest and holds the model once."""
    engines = replicas or 1
    return Plan(fronts or max(1, min(8, cpus // CPUS_PER_FRONT)), engines, threads or max(1, cpus // engines), lanes)
