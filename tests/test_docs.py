"""What the docs show is what the code says."""

import re
from pathlib import Path

from container import environment
from serve.contract import lifecycle
from sidecar.rollout import adapters, reasons

DOCS = Path(__file__).parent.parent / "docs"


def test_the_settings_page_shows_the_table_of_the_code() -> None:
    assert environment.table() in (DOCS / "settings.md").read_text()


def test_the_diagram_of_the_states_is_drawn_from_the_table() -> None:
    assert lifecycle.diagram() in (DOCS / "ARCHITECTURE.md").read_text()


def test_the_rollouts_page_shows_every_reason_of_the_code() -> None:
    assert reasons.table() in (DOCS / "rollouts.md").read_text()


def test_the_examples_for_controllers_ask_only_what_is_answered() -> None:
    examples = [p.read_text() for p in (DOCS.parent / "deploy").rglob("*.yaml")]
    paths = [path for text in examples for path in re.findall(r"http://evenkeel-judge:9091(/\S+)", text)]
    record = {"decision": "hold", "reasons": []}
    assert len(paths) >= 3
    assert all({adapters.answer(m, path, record).status for m in ("GET", "POST")} <= {200, 403, 405} for path in paths)
