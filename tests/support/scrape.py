"""Reads what /metrics says, with the client library's own parser."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from evenkeel.serve.contract.status_page import StatusPage
from evenkeel.serve.exposition import PageCollector


class Scrape:
    """One scrape. `scrape["name"]`: the sum over all its labels; `scrape.of("name", code="200")`: over those that fit."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families: dict[str, Metric] = {m.name: m for m in text_string_to_metric_families(text)}
        self.samples = [s for m in self.families.values() for s in m.samples]

    @staticmethod
    def of_page(page: StatusPage) -> Scrape:
        return Scrape(PageCollector(page).text().decode())

    @staticmethod
    def of_port(port: int) -> Scrape:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            return Scrape(reply.read().decode())

    @property
    def names(self) -> set[str]:
        return {s.name for s in self.samples}

    def of(self, name: str, **labels: str) -> float:
        fitting = [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]
        assert fitting, f"{name}{labels or ''} is not exposed"
        return sum(fitting)

    def __getitem__(self, name: str) -> float:
        return self.of(name)

    def labels(self, name: str) -> list[Mapping[str, str]]:
        return [s.labels for s in self.samples if s.name == name]
