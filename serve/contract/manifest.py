"""model.toml: what the owner of a model says about it, checked key by key. Optional in whole and in every part.

What the manifest leaves out is found in the folder (`backend`, `file`) or read from the model file by the engine
(inputs and outputs). A wrong manifest raises BadModel with one line that names the key. No framework is loaded here.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evenkeel.serve.contract import folder_findings
from evenkeel.serve.contract.signature import ITEM_BYTES, TensorSpec
from evenkeel.serve.errors import BadModel

BACKENDS = ("onnx", "pytorch", "handler", "echo")
# Bare folders: the first file found decides. `code/inference.py` comes first because a handler loads its own files.
BARE_FILES = (("code/inference.py", "handler"), ("model.onnx", "onnx"), ("model.pt2", "pytorch"), ("model.pt", "pytorch"))
ROWS = "rows"  # the name of the leading axis along which requests are batched
UNSAID: tuple[int | str, ...] = ("",)  # in place of dims, as an empty dtype is: what the model file says counts
ROWS_MAX_LIMIT = 4096
TOOLKITS = ("pytorch", "sklearn", "huggingface")
GPU_DTYPES = ("fp16", "bf16", "tf32")
GPU_MEMORY_MB_MAX = 1 << 20  # a terabyte: beyond any GPU


@dataclass(frozen=True, slots=True)
class ModelSample:
    """A request body to warm up on; with `output` it is also a golden check."""

    input: Path
    content_type: str
    output: Path | None
    rtol: float
    atol: float


@dataclass(frozen=True, slots=True)
class Gpu:
    """What holds where a GPU runs the model; on a CPU it says nothing."""

    dtype: str = ""  # of the arithmetic, one of GPU_DTYPES; empty: as the model was made, in full
    tensorrt: bool = False  # for ONNX models: by TensorRT, and what that does not know by CUDA
    memory_mb: int | None = None  # of the GPU, for what the framework allocates in one replica; None: most of it
    graphs: bool = False  # CUDA graphs for the shapes and batch sizes of the warm-up


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything said about one model folder. `inputs`/`outputs` None: read them from the model file."""

    folder: Path
    name: str
    version: str
    backend: str
    file: Path | None
    inputs: tuple[TensorSpec, ...] | None = None
    outputs: tuple[TensorSpec, ...] | None = None
    rows_axis: bool | None = None  # None: as the model file says
    rows_max: int = 64
    slo_s: float | None = None
    run_s_max: float | None = None  # beyond it a batch is stuck, whatever was predicted
    pad_waste: float = 0.25  # share of padded elements that a shape bucket may hold
    batched_handler: bool = False
    toolkit: str = ""  # of AWS's, whose defaults stand in for a handler's input_fn: one of TOOLKITS; empty: as the folder looks
    threads: int | None = None
    compile: bool = False  # by torch.compile
    gpu: Gpu = Gpu()
    warmup_s: float = 10.0  # all of warm-up may take this long, beside the first run of each shape
    batch_tolerance: float | None = None  # None: by the dtype of the output, see engine/models/golden.py
    samples: tuple[ModelSample, ...] = field(default=())
    was_chosen: bool = False  # model.toml says which file, or which backend


SUFFIX_TYPES = {".json": "application/json", ".jsonl": "application/jsonlines", ".csv": "text/csv",
                ".npy": "application/x-npy", ".npz": "application/x-npz", ".bin": "application/octet-stream"}  # fmt: skip


def load(folder: Path, name: str = "", version: str = "", program: str = "") -> Manifest:
    """Read `folder`/model.toml, or infer everything from the files there. Raises BadModel.

    `name` and `version`: those of the folders `<name>/<version>/`. The manifest may repeat them, and say nothing else.
    `program`: the name of a handler's file where it is not code/inference.py.
    """
    try:
        loaded = _load(folder, program)
    except OSError as e:  # one that may not be entered
        raise BadModel(f"model folder {folder} cannot be read: {e.strerror}") from e
    if not version:
        return loaded.manifest
    for key, in_file, wanted in (("name", loaded.name, name), ("version", loaded.version, version)):
        if in_file not in ("", wanted):
            raise BadModel(
                f"{folder / 'model.toml'}: {key} = {in_file!r}, but the folder says {wanted!r}: leave it out, or make it so"
            )
    return replace(loaded.manifest, name=name, version=version)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A manifest, and what its file says of name and version by itself; empty: nothing."""

    manifest: Manifest
    name: str
    version: str


def _load(folder: Path, program: str) -> _Loaded:
    if not folder.is_dir():
        raise BadModel(f"model folder {folder} does not exist: set EVENKEEL_MODEL_DIR or mount the model there")
    path = folder / "model.toml"
    if not path.exists():
        return _Loaded(parse({}, folder, program), "", "")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise BadModel(f"{path}: not valid TOML: {e}") from e
    except OSError as e:
        raise BadModel(f"{path} cannot be read: {e.strerror}") from e
    return _Loaded(parse(data, folder, program), str(data.get("name", "")), str(data.get("version", "")))


def parse(data: Mapping[str, Any], folder: Path, program: str = "") -> Manifest:
    """Check the tables of a manifest. Every message starts with the key that is wrong."""
    top = _Table(data, "", {"name", "version", "backend", "file", "inputs", "outputs", "batching", "samples", "handler",
                            "threads", "compile", "warmup", "gpu"})  # fmt: skip
    backend, file = _backend_and_file(top, folder, program)
    batching = top.table(
        "batching", {"rows_max", "slo_ms", "run_s_max", "pad_waste", "enabled", "tolerance", "rows_depend"})  # fmt: skip
    handler = top.table("handler", {"batched", "toolkit"})
    if handler.data and backend != "handler":
        raise BadModel(f"model.toml: [handler] makes no sense with backend = {backend!r}")
    if top.boolean("compile", False) and backend != "pytorch":
        raise BadModel(f"model.toml: compile = true makes no sense with backend = {backend!r}, only with pytorch")
    rows_depend = batching.boolean("rows_depend", False)
    inputs, rows_in = _specs(top, "inputs", rows_depend, backend)
    outputs, rows_out = _specs(top, "outputs", rows_depend, backend)
    if rows_in is not None and rows_out is not None and rows_in != rows_out:
        raise BadModel(f"model.toml: inputs and outputs must agree on the leading {ROWS!r} axis")
    slo_ms = batching.number("slo_ms", None, 0.1, 3_600_000)
    rows_max = batching.integer("rows_max", 64, 1, ROWS_MAX_LIMIT)
    assert rows_max is not None, "rows_max has a default"
    pad_waste = batching.number("pad_waste", 0.25, 0.0, 0.9)
    assert pad_waste is not None, "pad_waste has a default"
    warmup_s = top.table("warmup", {"seconds"}).number("seconds", 10.0, 0.0, 3600.0)
    assert warmup_s is not None, "seconds has a default"
    if not batching.boolean("enabled", True):
        rows_max = 1
    return Manifest(
        folder=folder, name=top.text("name", folder.resolve().name or "model"), version=top.text("version", "1"),
        backend=backend, file=file, inputs=inputs, outputs=outputs, 
        rows_axis=False if rows_depend else rows_in if rows_in is not None else rows_out,
        rows_max=rows_max, slo_s=None if slo_ms is None else slo_ms / 1e3, pad_waste=pad_waste,
        run_s_max=batching.number("run_s_max", None, 0.1, 86_400),
        batched_handler=handler.boolean("batched", False), toolkit=_toolkit(handler),
        threads=top.integer("threads", None, 1, 1024),
        compile=top.boolean("compile", False), gpu=_gpu(top, backend), warmup_s=warmup_s,
        batch_tolerance=batching.number("tolerance", None, 0.0, math.inf), samples=_samples(top, folder),
        was_chosen="file" in data or "backend" in data)  # fmt: skip


def _backend_and_file(top: _Table, folder: Path, program: str) -> tuple[str, Path | None]:
    file_name = top.text("file", "")
    if file_name and (Path(file_name).is_absolute() or ".." in Path(file_name).parts):
        raise BadModel(f"model.toml: file = {file_name!r} must be a path inside the model folder")
    backend = top.text("backend", "")
    if backend and backend not in BACKENDS:
        raise BadModel(f"model.toml: backend = {backend!r} is not one of {', '.join(BACKENDS)}")
    if backend == "echo":
        if file_name:
            raise BadModel(f"model.toml: file = {file_name!r} makes no sense with backend = 'echo', which has no model")
        return backend, None
    own = ((f"code/{program}", "handler"), (program, "handler")) if program else ()
    binding = bool(own) and backend in ("", "handler")  # whoever names a script wants no other, and no bare model
    for name, kind in [(file_name, backend)] if file_name else own if binding else BARE_FILES:
        if backend and kind and kind != backend:
            continue
        if not (folder / name).is_file():
            continue
        if leads_out(folder / name, folder):
            raise BadModel(f"{name} is a link out of the model folder {folder}: put the file itself there")
        by_suffix = _kind_by_suffix(name)
        if kind and by_suffix and kind != by_suffix:
            raise BadModel(f"model.toml: backend = {kind!r}, but file = {name!r} is for the backend {by_suffix!r}")
        backend_of_file = kind or by_suffix
        if not backend_of_file:
            raise BadModel(f"model.toml: file = {name!r} has an unknown suffix; say backend = one of {', '.join(BACKENDS)}")
        return backend_of_file, folder / name
    if file_name:
        raise BadModel(f"model.toml: file = {file_name!r} does not exist in {folder}")
    if binding:
        raise BadModel(f"SAGEMAKER_PROGRAM={program}: neither code/{program} nor {program} is in {folder}. Put it there, "
                       "as the SageMaker SDK does when it repacks a model, or unset the variable")  # fmt: skip
    wanted = ", ".join(n for n, k in BARE_FILES if not backend or k == backend)
    slip = folder_findings.slip(folder, [name for name, _ in BARE_FILES])
    raise BadModel(
        f"no model in {folder}: {slip}{'; ' if slip else ''}expected one of {wanted}, or a model.toml that names its file"
    )


def unused(manifest: Manifest) -> list[str]:
    """Models in the same folder that are not served, because another one comes first and model.toml names none."""
    if manifest.file is None or manifest.was_chosen or manifest.backend == "handler":  # a script may load the others
        return []
    return [name for name, _ in BARE_FILES if (manifest.folder / name).is_file() and manifest.folder / name != manifest.file]


def _toolkit(handler: _Table) -> str:
    toolkit = handler.text("toolkit", "")
    if toolkit and toolkit not in TOOLKITS:
        raise BadModel(f"model.toml: handler.toolkit = {toolkit!r} is not one of {', '.join(TOOLKITS)}")
    return toolkit


def _gpu(top: _Table, backend: str) -> Gpu:
    table = top.table("gpu", {"dtype", "tensorrt", "memory_mb", "graphs"})
    if table.data and backend not in ("onnx", "pytorch"):
        raise BadModel(f"model.toml: [gpu] makes no sense with backend = {backend!r}, only with onnx and pytorch")
    memory_mb = table.integer("memory_mb", None, 1, GPU_MEMORY_MB_MAX)
    gpu = Gpu(table.text("dtype", ""), table.boolean("tensorrt", False), memory_mb, table.boolean("graphs", False))
    if gpu.tensorrt and backend != "onnx":
        raise BadModel(f"model.toml: gpu.tensorrt = true makes no sense with backend = {backend!r}, only with onnx")
    if gpu.graphs and gpu.tensorrt:
        raise BadModel("model.toml: gpu.graphs = true makes no sense with tensorrt = true: take one of them")
    if gpu.dtype not in ("", *GPU_DTYPES):
        raise BadModel(f"model.toml: gpu.dtype = {gpu.dtype!r} is not one of {', '.join(GPU_DTYPES)}")
    if backend == "onnx" and (gpu.dtype == "bf16" or (gpu.dtype == "fp16" and not gpu.tensorrt)):
        raise BadModel(f"model.toml: gpu.dtype = {gpu.dtype!r}: onnxruntime computes in the types of the file: convert the model"
                       + (", or set gpu.tensorrt = true" if gpu.dtype == "fp16" else ""))  # fmt: skip
    return gpu


def _kind_by_suffix(name: str) -> str | None:
    return {".onnx": "onnx", ".pt2": "pytorch", ".pt": "pytorch", ".pth": "pytorch", ".py": "handler"}.get(Path(name).suffix)


def _specs(top: _Table, key: str, rows_depend: bool, backend: str) -> tuple[tuple[TensorSpec, ...] | None, bool | None]:
    """The tensors, and whether their first axis counts rows; None: no shape is said. `rows_depend`: the leading rows axis is a
    free dim like any other, so that a request stays one item."""
    tables = top.tables(key, {"name", "dtype", "shape", "allow_nan", "pad"})
    if not tables:
        return None, None
    in_file = backend in ("onnx", "pytorch")  # what is left out can be read there
    specs, rows = [], set()
    for table in tables:
        name, dtype = table.text("name", ""), table.text("dtype", "" if in_file else "float32")
        if not name:
            raise BadModel(f"model.toml: {table.path}.name is missing")
        if dtype not in ITEM_BYTES and "dtype" in table.data:
            raise BadModel(f"model.toml: {table.path}.dtype = {dtype!r} is not one of {', '.join(ITEM_BYTES)}")
        dims, leading = UNSAID, None
        if "shape" in table.data or not in_file:
            dims, leading = _dims(table, rows_depend)
            rows.add(leading)
        specs.append(TensorSpec(name, dtype, dims, table.boolean("allow_nan", False), _pad(table, dtype)))
    if len({s.name for s in specs}) != len(specs):
        raise BadModel(f"model.toml: two [[{key}]] have the same name")
    if len(rows) > 1:
        raise BadModel(f"model.toml: either all [[{key}]] shapes start with {ROWS!r}, or none")
    return tuple(specs), rows.pop() if rows else None


def _dims(table: _Table, rows_depend: bool) -> tuple[tuple[int | str, ...], bool]:
    shape = table.data.get("shape")
    if not isinstance(shape, list) or not all(_is_dim(d) for d in shape):
        raise BadModel(f"model.toml: {table.path}.shape must be a list of sizes >= 1 and names of free dimensions")
    leading = bool(shape) and shape[0] == ROWS
    dims = tuple(shape[1:] if leading else shape)
    if rows_depend and leading:
        return (ROWS, *dims), False
    if ROWS in dims:
        raise BadModel(f"model.toml: {table.path}.shape: {ROWS!r} can only be the first dimension")
    return dims, leading


def _pad(table: _Table, dtype: str) -> float | None:
    pad = table.number("pad", None, -math.inf, math.inf)
    wrong = pad_fault(pad, dtype) if pad is not None and dtype else ""
    if wrong:
        raise BadModel(f"model.toml: {table.path}.pad{wrong}")
    return pad


def pad_fault(pad: float, dtype: str) -> str:
    """What is wrong with a padding value, which must be one of the dtype; "" when nothing is."""
    if "float" in dtype:
        return ""
    if dtype == "string":
        return ": strings cannot be padded"
    bits = 1 if dtype == "bool" else 8 * (ITEM_BYTES[dtype] or 0)
    low, high = (0, 2**bits - 1) if dtype[0] in "ub" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    fits = math.isfinite(pad) and pad == int(pad) and low <= pad <= high
    return "" if fits else f" = {pad:g} is not a value of {dtype}"


def _is_dim(d: object) -> bool:
    return (isinstance(d, int) and not isinstance(d, bool) and d >= 1) or (isinstance(d, str) and d != "")


def _samples(top: _Table, folder: Path) -> tuple[ModelSample, ...]:
    samples = []
    for table in top.tables("samples", {"input", "output", "content_type", "rtol", "atol"}):
        source = _inside(table, "input", folder)
        if source is None:
            raise BadModel(f"model.toml: {table.path}.input is missing")
        content_type = table.text("content_type", SUFFIX_TYPES.get(source.suffix, ""))
        if not content_type:
            raise BadModel(f"model.toml: {table.path}.content_type is needed for a {source.suffix or 'suffix-less'} file")
        rtol, atol = table.number("rtol", 1e-3, 0.0, math.inf), table.number("atol", 1e-5, 0.0, math.inf)
        assert rtol is not None and atol is not None, "tolerances have defaults"
        samples.append(ModelSample(source, content_type, _inside(table, "output", folder), rtol, atol))
    return tuple(samples)


def _inside(table: _Table, key: str, folder: Path) -> Path | None:
    name = table.text(key, "")
    if not name:
        return None
    path = folder / name
    if ".." in Path(name).parts or Path(name).is_absolute() or not path.is_file():
        raise BadModel(f"model.toml: {table.path}.{key} = {name!r} is not a file inside the model folder")
    if leads_out(path, folder):
        raise BadModel(f"model.toml: {table.path}.{key} = {name!r} is a link out of the model folder: put the file itself there")
    return path


def leads_out(path: Path, folder: Path) -> bool:
    """Whether links on the way lead out of the folder. The folder itself may be one, and links within it are fine."""
    return not path.resolve().is_relative_to(folder.resolve())


class _Table:
    """A TOML table whose unknown keys and wrong types are refused by name."""

    def __init__(self, data: Mapping[str, Any], path: str, keys: set[str]) -> None:
        self.data, self.path = data, path
        unknown = sorted(set(data) - keys)
        if unknown:
            near = difflib.get_close_matches(unknown[0], keys, 1, 0.7)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise BadModel(f"model.toml: unknown key {self._key(unknown[0])}{meant}; known here: {', '.join(sorted(keys))}")

    def _key(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _typed(self, key: str, kinds: tuple[type, ...], what: str) -> Any:
        value = self.data.get(key)
        if value is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise BadModel(f"model.toml: {self._key(key)} = {value!r} must be {what}")
        return value

    def text(self, key: str, default: str) -> str:
        value = self._typed(key, (str,), "a string")
        return default if value is None else str(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._typed(key, (bool,), "true or false")
        return default if value is None else bool(value)

    def number(self, key: str, default: float | None, low: float, high: float) -> float | None:
        value = self._typed(key, (int, float), "a number")
        if value is not None and not low <= value <= high:
            raise BadModel(f"model.toml: {self._key(key)} = {value!r} must be between {low:g} and {high:g}")
        return default if value is None else float(value)

    def integer(self, key: str, default: int | None, low: int, high: int) -> int | None:
        value = self._typed(key, (int,), "a whole number")
        if value is not None and not low <= value <= high:
            raise BadModel(f"model.toml: {self._key(key)} = {value!r} must be between {low} and {high}")
        return default if value is None else int(value)

    def table(self, key: str, keys: set[str]) -> _Table:
        return _Table(self._typed(key, (dict,), "a table") or {}, self._key(key), keys)

    def tables(self, key: str, keys: set[str]) -> list[_Table]:
        value = self._typed(key, (list,), "an array of tables") or []
        if not all(isinstance(v, dict) for v in value):
            raise BadModel(f"model.toml: {self._key(key)} must be an array of tables, written [[{key}]]")
        return [_Table(v, f"{self._key(key)}[{i}]", keys) for i, v in enumerate(value)]
