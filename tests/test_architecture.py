"""The architecture, kept by a test: who may import whom, where the outside world enters, what stays light.

The tables below are the rules of shared/design.md. A new package needs a line here before it can be imported.
"""

from __future__ import annotations

import ast
import collections
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("container", "endpoint", "serve", "sidecar")
PACKAGE = "evenkeel"  # its own module holds the version and nothing else

# part -> what it may import of ours, beside itself. The longest name that fits a module is its part.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "evenkeel.container": (
        "evenkeel.serve.settings",
        "evenkeel.serve.errors",
        "evenkeel.serve.contract",
        "evenkeel.sidecar.settings",
    ),
    "evenkeel.endpoint.wire": (),
    "evenkeel.endpoint.s3": ("evenkeel.endpoint.wire",),
    "evenkeel.endpoint.router": ("evenkeel.endpoint.wire", "evenkeel.endpoint.loopback"),
    "evenkeel.endpoint": ("evenkeel.endpoint.wire", "evenkeel.serve.contract"),
    "evenkeel.sidecar.rollout": ("evenkeel.serve.errors",),
    "evenkeel.sidecar": ("evenkeel.serve.contract", "evenkeel.serve.errors", "evenkeel.serve.exposition", "evenkeel.serve.http"),
    "evenkeel.serve.settings": ("evenkeel.serve.errors", "evenkeel.serve.contract"),
    "evenkeel.serve.errors": ("evenkeel.serve.settings", "evenkeel.serve.contract"),
    "evenkeel.serve.contract": ("evenkeel.serve.settings", "evenkeel.serve.errors"),
    "evenkeel.serve.http": ("evenkeel.serve.contract", "evenkeel.serve.errors"),
    "evenkeel.serve.exposition": ("evenkeel.serve.contract", "evenkeel.serve.errors"),
    "evenkeel.serve.codec": ("evenkeel.serve.contract", "evenkeel.serve.errors"),
    "evenkeel.serve.transport": ("evenkeel.serve.contract", "evenkeel.serve.errors"),
    "evenkeel.serve.batching": (),
    "evenkeel.serve.engine": (
        "evenkeel.serve.contract",
        "evenkeel.serve.errors",
        "evenkeel.serve.settings",
        "evenkeel.serve.codec",
        "evenkeel.serve.transport",
        "evenkeel.serve.batching",
    ),
    "evenkeel.serve.front": (
        "evenkeel.serve.contract",
        "evenkeel.serve.errors",
        "evenkeel.serve.settings",
        "evenkeel.serve.codec",
        "evenkeel.serve.transport",
        "evenkeel.serve.exposition",
        "evenkeel.serve.http",
    ),
}
# parts that use nothing but the standard library
STANDARD_ONLY = (
    "evenkeel.container",
    "evenkeel.serve.settings",
    "evenkeel.serve.errors",
    "evenkeel.serve.contract",
    "evenkeel.serve.batching",
)
# what the commands of people may use beside it; what runs in a container never loads these
COMMAND_LINE = {"cyclopts", "rich"}
# a framework -> the only files that may import it
FRAMEWORKS = {
    "onnxruntime": "serve/engine/backends/onnx/onnx_backend.py",
    "torch": "serve/engine/backends/pytorch/torch_tensors.py",
}
# what a pure part must not even have in its hands
IMPURE = {"time", "socket", "threading", "asyncio", "os", "random", "select", "selectors", "subprocess", "multiprocessing",
          "signal", "datetime", "io", "pathlib", "numpy"}  # fmt: skip
READS_ENVIRONMENT = ("container/environment.py", "container/__main__.py", "endpoint/__main__.py")


def files(*packages: str) -> list[Path]:
    return [p for package in packages for p in sorted((ROOT / package).rglob("*.py"))]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("evenkeel", *(parts[:-1] if parts[-1] == "__init__" else parts)))


MODULES = {module_of(p): p for p in files(*PRODUCT)}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, wherever in the file, with the line. `from a import b` gives a.b if that is one."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in MODULES else node.module), node.lineno


def is_in(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


def part_of(module: str) -> str | None:
    fitting = [part for part in MAY_IMPORT if is_in(module, part)]
    return max(fitting, key=len, default=None)


def ours(module: str) -> bool:
    return module.partition(".")[0] in ("evenkeel", *PRODUCT, "tests", "benchmarks", "model_artifacts")


def test_every_module_belongs_to_a_part() -> None:
    homeless = [m for m in MODULES if part_of(m) is None and m != "evenkeel.serve"]
    assert homeless == []


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_the_table_allows(part: str) -> None:
    allowed = (part, *MAY_IMPORT[part])
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for module, path in MODULES.items() if part_of(module) == part
        for name, line in imports(path) if ours(name) and name != PACKAGE and not any(is_in(name, a) for a in allowed)
    ]  # fmt: skip
    assert wrong == []


@pytest.mark.parametrize("part", STANDARD_ONLY)
def test_a_light_part_uses_the_standard_library_alone(part: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for module, path in MODULES.items() if part_of(module) == part
        for name, line in imports(path) if not ours(name) and name.partition(".")[0] not in sys.stdlib_module_names
        and not (is_in(module, "evenkeel.container.commands") and name.partition(".")[0] in COMMAND_LINE)
    ]  # fmt: skip
    assert wrong == []


def test_batching_is_pure() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files("serve/batching") for name, line in imports(path) if name.partition(".")[0] in IMPURE
    ]  # fmt: skip
    assert wrong == []


def test_the_rollout_judge_decides_without_a_clock_a_socket_or_a_file() -> None:
    """Its shells are named here; everything else computes, with the standard library alone, so that a log replays anywhere."""
    shells = {"fetch.py", "lookup.py", "sources.py", "decision_server.py", "judge.py", "checkpoint.py"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files("sidecar/rollout") if path.name not in shells
        for name, line in imports(path)
        if name.partition(".")[0] in IMPURE or not (ours(name) or name.partition(".")[0] in sys.stdlib_module_names)
    ] + [
        f"{path.relative_to(ROOT)}:{line} imports the shell {name}"
        for path in files("sidecar/rollout") if path.name not in shells
        for name, line in imports(path) if name.removeprefix("evenkeel.sidecar.rollout.") + ".py" in shells
    ]  # fmt: skip
    assert wrong == []


def test_the_metrics_of_others_are_read_by_our_own_parser_which_has_bounds() -> None:
    lax = ("prometheus_client.parser", "urllib.request")  # one quotes what it reads, one follows it anywhere
    wrong = [str(p.relative_to(ROOT)) for p in MODULES.values() if any(is_in(n, part) for n, _ in imports(p) for part in lax)]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions and for types alone count too: a circle there is only a circle in hiding."""
    graph = {m: {n for n, _ in imports(p) if n in MODULES and n != m} for m, p in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_pieces_inside_serve_have_an_order_without_circles() -> None:
    order = {p: {q for q in MAY_IMPORT[p] if q.startswith("evenkeel.serve.") and q.count(".") == 2} for p in MAY_IMPORT}
    light = {"evenkeel.serve.settings", "evenkeel.serve.errors", "evenkeel.serve.contract"}
    placed: set[str] = set(light)
    rest = {p for p in order if p not in light}
    while rest:
        ready = {p for p in rest if order[p] <= placed | {"evenkeel.sidecar.settings"}}
        assert ready, f"a circle among {sorted(rest)}"
        placed |= ready
        rest -= ready


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_only_one_file_imports_each_framework(framework: str) -> None:
    importers = [str(p.relative_to(ROOT)) for p in MODULES.values() if any(is_in(n, framework) for n, _ in imports(p))]
    assert importers == [FRAMEWORKS[framework]]


def test_only_one_file_touches_cuda_through_torch() -> None:
    touching = [str(p.relative_to(ROOT)) for p in MODULES.values() if any(
        isinstance(n, ast.Attribute) and n.attr in ("cuda", "cudnn") for n in ast.walk(parsed(p)))]  # fmt: skip
    assert touching == ["serve/engine/backends/pytorch/torch_device.py"]


def test_only_one_file_calls_the_library_of_cuda() -> None:
    """Calls are named by attribute or, for what makes memory, by word: cudaMalloc and the like."""
    calling = [str(p.relative_to(ROOT)) for p in MODULES.values() if any(
        re.match(r"cuda[A-Z]", str(getattr(n, "attr", getattr(n, "value", "")))) for n in ast.walk(parsed(p))
        if isinstance(n, (ast.Attribute, ast.Constant)))]  # fmt: skip
    assert calling == ["serve/engine/backends/gpu/cuda_runtime.py"]


def names_used(path: Path, *wanted: str) -> list[int]:
    """Lines on which one of the dotted names (`os.environ`, `time.sleep`) is used, also when imported by name."""
    lines = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and f"{node.value.id}.{node.attr}" in wanted:
            lines.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and any(f"{node.module}.{a.name}" in wanted for a in node.names):
            lines.append(node.lineno)
    return lines


def test_only_the_container_reads_the_environment() -> None:
    readers = ("os.environ", "os.getenv", "os.environb", "os.getenvb", "os.putenv")
    found = {str(p.relative_to(ROOT)): names_used(p, *readers) for p in MODULES.values()}
    assert {path: lines for path, lines in found.items() if lines and path not in READS_ENVIRONMENT} == {}
    assert any(found[path] for path in READS_ENVIRONMENT)


def test_nothing_is_ever_unpickled() -> None:
    picklers = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in MODULES.values() for name, line in imports(path) if name.partition(".")[0] in picklers
    ]  # fmt: skip
    assert wrong == []
    for path in MODULES.values():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
                safe = node.arg == "weights_only"
                where = f"{path.relative_to(ROOT)}:{node.value.lineno}"
                assert isinstance(node.value, ast.Constant) and node.value.value is safe, where


def test_the_front_sleeps_in_asyncio_only() -> None:
    found = {str(p.relative_to(ROOT)): names_used(p, "time.sleep") for p in files("serve/front")}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_nothing_runs_with_assertions_switched_off() -> None:
    """Our own bugs are found by assert; python -O would hide them."""
    wrong = [str(p.relative_to(ROOT)) for p in MODULES.values() if "PYTHONOPTIMIZE" in p.read_text() or '"-O"' in p.read_text()]
    assert wrong == []


def loaded_by(module: str, *suspects: str) -> str:
    code = f"import {module}, sys; print(sorted(set(sys.modules) & set({suspects!r})))"
    return subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip()


def test_the_front_never_loads_a_framework() -> None:
    assert (
        loaded_by("evenkeel.serve.front.arbiter", "torch", "onnxruntime", "onnx", "pandas", "sklearn", "scipy", "numpy.random")
        == "[]"
    )


def test_a_front_that_nobody_scrapes_loads_no_metrics_library() -> None:
    assert loaded_by("evenkeel.serve.front.arbiter", "prometheus_client", "evenkeel.serve.exposition") == "[]"


def test_the_supervisor_stays_light() -> None:
    heavy = (
        "numpy",
        "fastapi",
        "uvicorn",
        "gunicorn",
        "asyncio",
        "orjson",
        "argparse",
        "importlib.metadata",
        *COMMAND_LINE,
        "torch",
        "onnxruntime",
        "evenkeel.serve.front",
        "evenkeel.serve.engine",
    )
    assert loaded_by("evenkeel.container.commands.serve_command", *heavy) == "[]"


@pytest.mark.parametrize("module", ["evenkeel.serve.engine.process", "evenkeel.sidecar.process"])
def test_no_process_reads_what_is_installed_when_it_starts(module: str) -> None:
    """5 MB each."""
    assert loaded_by(module, "importlib.metadata") == "[]"


def test_the_command_line_knows_its_command_before_it_loads_one() -> None:
    assert (
        loaded_by(
            "evenkeel.container.__main__",
            "evenkeel.container.commands.serve_command",
            "evenkeel.container.commands.pack_command",
            "evenkeel.container.commands.command_line",
            "evenkeel.container.commands.check_command",
            *COMMAND_LINE,
            "numpy",
        )
        == "[]"
    )


def test_nothing_that_runs_in_a_container_imports_the_endpoint() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files("container", "serve", "sidecar") for name, line in imports(path) if is_in(name, "evenkeel.endpoint")
    ]  # fmt: skip
    assert wrong == []


def test_what_the_endpoint_decides_is_pure() -> None:
    pure = ("deployment_steps", "endpoint_machine", "endpoint_state", "endpoint_views", "fleet_plan", "listing",
            "invocation_routes", "byte_range", "object_listing")  # fmt: skip
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files("endpoint") if path.stem in pure for name, line in imports(path) if name.partition(".")[0] in IMPURE
    ]  # fmt: skip
    assert wrong == []


def test_the_endpoint_reads_aws_models_without_importing_the_sdk() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files("endpoint") for name, line in imports(path) if name.partition(".")[0] in ("boto3", "botocore")
    ]  # fmt: skip
    assert wrong == []


def test_the_contract_costs_nothing_to_import() -> None:
    parts = [m for m in MODULES if is_in(m, "evenkeel.serve.contract")]
    code = f"import sys, {', '.join(parts)}; print({{m.partition('.')[0] for m in sys.modules}})"
    tops = ast.literal_eval(subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip())
    clean = ast.literal_eval(
        subprocess.check_output([sys.executable, "-c", code.replace(", " + ", ".join(parts), "")], text=True)
    )
    assert {m for m in tops - clean if m not in sys.stdlib_module_names} == {"evenkeel"}


def test_the_sidecars_watch_runs_before_any_web_framework_is_loaded() -> None:
    assert loaded_by("evenkeel.sidecar.process", "fastapi", "uvicorn", "numpy", "asyncio", "prometheus_client") == "[]"


# what starts each role, and what it is told at its start
TWICE = {"process", "settings", "__init__", "__main__"}


def test_a_name_of_a_module_or_a_class_is_there_once() -> None:
    stems = collections.Counter(p.stem for p in MODULES.values())
    classes = collections.Counter(n.name for p in MODULES.values() for n in ast.walk(parsed(p)) if isinstance(n, ast.ClassDef))
    assert {name for name, times in stems.items() if times > 1} <= TWICE
    assert [name for name, times in classes.items() if times > 1] == []


# A file that asks more than this of a reader is two; the product's median is far below each.
FILE_LINES_MAX, FUNCTION_LINES_MAX, CLASS_LINES_MAX, FAN_OUT_MAX = 400, 60, 250, 12


def _length(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _needs_at_its_start(path: Path) -> set[str]:
    """The modules of ours that a file loads when it is loaded: none that it has for types alone, or where a function begins."""
    own = [node for node in parsed(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {a.name for n in own if isinstance(n, ast.Import) for a in n.names}
    names |= {f"{n.module}.{a.name}" for n in own if isinstance(n, ast.ImportFrom) for a in n.names}
    return {name if name in MODULES else name.rpartition(".")[0] for name in names if ours(name)} - {PACKAGE}


def test_no_file_asks_too_much_of_its_reader() -> None:
    wrong: list[str] = []
    for path in MODULES.values():
        name = str(path.relative_to(ROOT))
        lines, fan_out = path.read_text(encoding="utf-8").count("\n"), len(_needs_at_its_start(path))
        wrong += [f"{name}: {lines} lines"] if lines > FILE_LINES_MAX else []
        wrong += [f"{name}: loads {fan_out} modules of ours"] if fan_out > FAN_OUT_MAX else []
        for node in ast.walk(parsed(path)):
            most = FUNCTION_LINES_MAX if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else CLASS_LINES_MAX
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and _length(node) > most:
                wrong.append(f"{name}:{node.lineno}: {node.name} has {_length(node)} lines")
    assert wrong == []
