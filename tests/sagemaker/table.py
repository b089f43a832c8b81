"""The contract table of docs/sagemaker.md, drawn from the tests' markers: python -m tests.sagemaker.table writes it there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.sagemaker.items import ITEMS, OPEN

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "sagemaker.md"
BEGIN, END = "<!-- the table begins: python -m tests.sagemaker.table -->", "<!-- the table ends -->"


def items_of(node: ast.AST) -> Iterator[str]:
    """The items that a decorator, or a module's pytestmark, names."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.contract":
            yield from (str(ast.literal_eval(argument)) for argument in call.args)


def proofs() -> dict[str, list[str]]:
    """Item -> the tests that carry its marker, as folder/file::name."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        whole = [
            item for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
            for item in items_of(node.value)
        ]  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for item in dict.fromkeys([*whole, *(i for d in node.decorator_list for i in items_of(d))]):
                    found.setdefault(item, []).append(f"{path.relative_to(ROOT / 'tests').with_suffix('')}::{node.name}")
    return found


def table() -> str:
    """Raises ValueError for a marker that names no item."""
    found = proofs()
    if unknown := sorted(set(found) - set(ITEMS)):
        raise ValueError(f"no such item of the contract: {', '.join(unknown)}")
    lines = [BEGIN, "| item | what | proved by |", "|---|---|---|"]
    for item, what in ITEMS.items():
        shown = [name.rpartition("::")[2].removeprefix("test_").replace("_", " ") for name in found.get(item, [])]
        proof = "; ".join(shown) if shown else "**open**"
        lines.append(f"| {item} | {what} | {proof}{f'. **Open:** {OPEN[item]}' if shown and item in OPEN else ''} |")
    return "\n".join([*lines, END])


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + table() + after, encoding="utf-8")


if __name__ == "__main__":
    main()
