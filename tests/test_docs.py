"""What the docs show is what the code says."""

from pathlib import Path

from container import environment
from serve.contract import lifecycle

DOCS = Path(__file__).parent.parent / "docs"


def test_the_settings_page_shows_the_table_of_the_code() -> None:
    assert environment.table() in (DOCS / "settings.md").read_text()


def test_the_diagram_of_the_states_is_drawn_from_the_table() -> None:
    assert lifecycle.diagram() in (DOCS / "ARCHITECTURE.md").read_text()
