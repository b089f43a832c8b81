"""What the docs show is what the code says."""

import re
from pathlib import Path

import pytest

from evenkeel.container import environment
from evenkeel.serve.contract import lifecycle
from evenkeel.serve.contract.lifecycle import CLEARS, Reason
from evenkeel.serve.contract.status_page import RESTART_REASONS
from evenkeel.serve.http import connection_state
from evenkeel.sidecar.rollout import adapters, reasons

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def test_the_settings_page_shows_the_table_of_the_code() -> None:
    assert environment.table() in (DOCS / "settings.md").read_text()


def test_the_diagrams_of_the_states_are_drawn_from_their_tables() -> None:
    assert lifecycle.diagram() in (DOCS / "ARCHITECTURE.md").read_text()
    assert connection_state.diagram() in (DOCS / "ARCHITECTURE.md").read_text()


def test_every_fault_that_is_listed_names_a_test_that_exists() -> None:
    named = re.findall(r"\| `(test_\w+)` \|$", (DOCS / "faults.md").read_text(), re.M)
    written = "\n".join(path.read_text() for path in (DOCS.parent / "tests").rglob("test_*.py"))
    assert len(named) > 40 and [name for name in named if f"def {name}(" not in written] == []


def sections(page: str, heading: str) -> dict[str, str]:
    """What stands under each third-level heading that is a code, in the section with that heading."""
    (section,) = re.findall(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", (DOCS / page).read_text(), re.M | re.S)
    return dict(re.findall(r"^### `(\w+)`$\n(.*?)(?=^### |\Z)", section, re.M | re.S))


def test_every_reason_has_its_section_in_the_operations_page_and_no_other_has() -> None:
    assert list(sections("operations.md", "Reasons")) == [r.code for r in Reason]


@pytest.mark.parametrize("reason", Reason, ids=lambda r: r.code)
def test_a_reasons_section_says_what_it_means_what_clears_it_and_what_to_do(reason: Reason) -> None:
    text = sections("operations.md", "Reasons")[reason.code]
    assert [w for w in ("**Means.**", "**By itself.**", "**You.**") if w not in text] == []
    assert CLEARS[reason] in text, "the same words as in /status"


def test_every_cause_of_a_restart_is_explained_in_the_operations_page() -> None:
    text = (DOCS / "operations.md").read_text()
    assert [r for r in RESTART_REASONS if f"| `{r}` |" not in text] == []


def test_the_rollouts_page_shows_every_reason_of_the_code() -> None:
    assert reasons.table() in (DOCS / "rollouts.md").read_text()


def test_the_examples_for_controllers_ask_only_what_is_answered() -> None:
    examples = [p.read_text() for p in (DOCS.parent / "deploy").rglob("*.yaml")]
    paths = [path for text in examples for path in re.findall(r"http://evenkeel-judge:9091(/\S+)", text)]
    record = {"decision": "hold", "reasons": []}
    assert len(paths) >= 3
    assert all({adapters.answer(m, path, record).status for m in ("GET", "POST")} <= {200, 403, 405} for path in paths)


def test_the_index_of_decisions_names_each_with_its_title() -> None:
    index = (DOCS / "decisions" / "README.md").read_text()
    for decision in sorted((DOCS / "decisions").glob("0*.md")):
        title = decision.read_text().split("\n")[0].removeprefix("# ").removeprefix(f"{decision.name[:4]}: ")
        row = rf"^\| \[{decision.name[:4]}\]\({re.escape(decision.name)}\) \| [\d-]+ \| {re.escape(title)} \|$"
        assert re.search(row, index, re.M), decision.name


PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()] == []


def test_the_readme_is_short_and_the_index_names_every_page() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 6000
    index = (DOCS / "README.md").read_text()
    assert [p.name for p in DOCS.glob("*.md") if f"({p.name})" not in index and p.name != "README.md"] == []


def test_every_file_of_ours_that_a_page_names_is_there() -> None:
    files = [
        p.relative_to(ROOT).as_posix()
        for top in ("container", "endpoint", "serve", "sidecar", "tests", "benchmarks", "examples")
        for p in (ROOT / top).rglob("*.py")
    ]
    for page in (DOCS / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((DOCS / "decisions").glob("0*.md"))):
        named = [n for n in re.findall(r"`((?:\w+/)*\w+\.py)`", page.read_text()) if not n.startswith("code/")]  # a model's
        missing = [name for name in named if not any(f == name or f.endswith(f"/{name}") for f in files)]
        assert missing == [], page.name
