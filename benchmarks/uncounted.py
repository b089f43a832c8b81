"""A copy of evenkeel that counts nothing: what counting costs, measured beside the real one in the same run.

No switch in the hot path could tell: a switch costs there what it saves. So the statements that count are taken out of
the source of a copy: everything that adds to a cell of the status page, and what only they had needed. States, gauges
and stamps stay, since readiness and batching read them.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from pathlib import Path

COUNTING = (
    "serve/front/request/row_batcher.py", "serve/front/request/outcomes.py", "serve/front/request/failover.py",
    "serve/engine/cycle/run_stamp.py", "serve/engine/cycle/single_request.py",
    "serve/engine/cycle/replies.py", "serve/front/request/decoding.py", "serve/front/request/answer_streams.py",
    "serve/front/http/protocol.py", "serve/engine/cycle/model_cycle.py",
)  # fmt: skip
CELLS = {"count", "value", "_count", "_value"}  # names under which blocks of the page go there
KEPT = {"_BATCHES"}  # the engine's own clock for learning
WITHOUT_EFFECT = {"frexp", "time_bucket", "_clock"}  # calls that may go with their result
ROOT = Path(__file__).resolve().parents[1]


def make(folder: Path) -> Path:
    """Write the copy, without anything that counts, into `folder`."""
    shutil.copytree(ROOT / "src" / "evenkeel", folder / "evenkeel", ignore=shutil.ignore_patterns("__pycache__"))
    for name in COUNTING:
        path = folder / "evenkeel" / name
        path.write_text(strip(path.read_text(encoding="utf-8")), encoding="utf-8")
    return folder


def strip(source: str) -> str:
    tree = ast.parse(source)
    for function in [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]:
        _Without(lambda statement, _: counts(statement)).visit(function)
        while _Without(is_unused).clean(function):
            pass  # what was removed may have been the only reader of another
    return ast.unparse(ast.fix_missing_locations(tree))


def counts(statement: ast.stmt) -> bool:
    """`count[_OK] += 1` and its like."""
    if not isinstance(statement, ast.AugAssign) or not isinstance(statement.target, ast.Subscript):
        return False
    cells = statement.target.value
    name = cells.attr if isinstance(cells, ast.Attribute) else cells.id if isinstance(cells, ast.Name) else ""
    return name in CELLS and ast.unparse(statement.target.slice) not in KEPT


def is_unused(statement: ast.stmt, read: set[str]) -> bool:
    """An assignment to names that nobody reads, of something that does nothing but give a value."""
    if isinstance(statement, ast.AugAssign):
        targets: list[ast.expr] = [statement.target]
    elif isinstance(statement, ast.Assign):
        targets = statement.targets
    else:
        return False
    stored = [leaf for t in targets for leaf in (t.elts if isinstance(t, ast.Tuple) else [t])]
    calls = [c.func for c in ast.walk(statement) if isinstance(c, ast.Call)]
    called = {f.attr if isinstance(f, ast.Attribute) else f.id if isinstance(f, ast.Name) else "" for f in calls}
    return called <= {*WITHOUT_EFFECT, "int"} and all(isinstance(s, ast.Name) and s.id not in read for s in stored)


class _Without(ast.NodeTransformer):
    """Removes the statements that are unwanted; a block that would be empty passes."""

    def __init__(self, unwanted: Callable[[ast.stmt, set[str]], bool]) -> None:
        self._unwanted, self._read, self._removed = unwanted, set[str](), 0

    def clean(self, function: ast.FunctionDef) -> int:
        """How many went."""
        self._read = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        self.visit(function)
        return self._removed

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                left = [s for s in block if not self._unwanted(s, self._read)]
                self._removed += len(block) - len(left)
                setattr(node, field, left or ([ast.Pass()] if field == "body" else []))
        return node
