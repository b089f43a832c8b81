"""The rules and the dashboard that are shipped: valid, tested, and about metrics that exist.

promtool and prometheus are Debian's. Without them these tests are left out by name, and the summary says how to get
them; docs/metrics.md says why. `.ci/run` leaves none out.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from evenkeel.serve import exposition

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "evenkeel.rules.yml"
CASES = DEPLOY / "prometheus" / "evenkeel.rules.test.yml"
DASHBOARD = DEPLOY / "grafana" / "evenkeel.json"
GET_IT = "promtool is missing: apt-get install prometheus"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason=GET_IT)

EXPOSED = {f.shown for f in exposition.FAMILIES if f.kind != "histogram"} | {
    f"{f.shown}_{part}" for f in exposition.FAMILIES if f.kind == "histogram" for part in ("bucket", "sum", "count")
}


def metrics_in(text: str) -> set[str]:
    """Names of ours, but for those that rules record, which have colons."""
    return set(re.findall(r"\bevenkeel_\w+(?!\w|:)", text))


def labels_in(expression: str) -> set[tuple[str, str]]:
    """Every metric with every label by which it is selected or grouped within it."""
    selected = re.findall(r"(evenkeel_\w+)\{([^}]*)\}", expression)
    return {(name, label) for name, inside in selected for label in re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", inside)}


def queries() -> list[str]:
    """Every expression of the dashboard, its variables filled in as Grafana would."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = [t["expr"] for p in dashboard["panels"] for t in p["targets"]]
    return [e.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*") for e in found]


def test_rules_are_about_metrics_that_exist() -> None:
    assert metrics_in(re.sub(r"(summary|action): .*", "", RULES.read_text())) - EXPOSED == set()
    assert metrics_in("".join(re.findall(r"- series: (.*)", CASES.read_text()))) - EXPOSED == set()


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    cases = CASES.read_text()
    assert len(alerts) == len(set(alerts)) == 10
    for alert in alerts:
        assert re.search(rf"alertname: {alert}\n\s+eval_time: \w+\n\s+exp_alerts:\n\s+- exp_labels", cases), alert
        assert re.search(rf"\{{alertname: {alert}, eval_time: \w+, exp_alerts: \[\]\}}", cases), alert


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for alert in re.split(r"- alert: ", RULES.read_text())[1:]:
        assert re.search(r'summary: ".+"', alert) and re.search(r'action: ".+"', alert), alert[:40]


def test_the_dashboard_is_about_metrics_that_exist_and_shows_them_all() -> None:
    found = set().union(*map(metrics_in, queries()))
    assert found - EXPOSED == set()
    histograms = {name for name in EXPOSED if name.endswith(("_bucket", "_sum", "_count"))}
    assert EXPOSED - histograms - found == set(), "a metric that no panel shows"
    variables = json.loads(DASHBOARD.read_text())["templating"]["list"]
    assert metrics_in(json.dumps(variables)) - EXPOSED == set()


def test_the_dashboard_selects_by_labels_that_the_metrics_have() -> None:
    shown = {f.shown: {*f.labels, "job", "instance", "le"} for f in exposition.FAMILIES}
    for expression in queries():
        for name, label in labels_in(expression):
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            assert label in (shown.get(name) or shown[family]), expression


def test_panels_of_the_dashboard_neither_overlap_nor_share_an_id() -> None:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    assert len({p["id"] for p in panels}) == len(panels)
    cells = [(x, y) for p in panels for g in [p["gridPos"]]
             for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])]  # fmt: skip
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    promtool("check", "rules", RULES)
    promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


@needs_promtool
def test_every_alert_fires_when_it_should_and_not_before() -> None:
    promtool("test", "rules", CASES)


@needs_promtool
def test_promtool_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"query{i}", "expr": e} for i, e in enumerate(queries())]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


@needs_promtool
def test_promtool_finds_nothing_to_complain_about_in_what_is_exposed(page: Any) -> None:
    text = exposition.PageCollector(page).text()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
