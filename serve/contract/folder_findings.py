"""What lies in a folder in which no model was found: the commonest slips, each with what to do. Reads names only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
ENTRIES_MAX = 1000  # looked at; a folder of more is nobody's slip
NAMES_TOLD = 6
HUGGING_FACE_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
HUGGING_FACE_LINES = (
    "from transformers import pipeline / def model_fn(model_dir): return pipeline(model=model_dir) / "
    "def predict_fn(data, model): return model(data[\"inputs\"])"
)  # fmt: skip
PICKLE_LINES = 'import joblib / def model_fn(model_dir): return joblib.load(model_dir + "/{name}")'


def slip(folder: Path, model_files: Iterable[str]) -> str:
    """In one clause what was found and what to do; "": the folder is empty or cannot be read. `model_files`: names of files that
    make a folder a model's."""
    try:
        entries = [path for path, _ in zip(sorted(folder.iterdir()), range(ENTRIES_MAX), strict=False)]
    except OSError:
        return ""
    shown = [path.name for path in entries if not path.name.startswith(".")]
    looks: tuple[Callable[[], str], ...] = (
        lambda: _archive(shown),
        lambda: _too_deep(entries, list(model_files)),
        lambda: _script(shown),
        lambda: _hugging_face(shown),
        lambda: _other_name(shown),
        lambda: _pickle(shown),
        lambda: _state(shown),
        lambda: _others(shown),
    )
    return next((said for look in looks if (said := look())), "")


def _archive(names: list[str]) -> str:
    found = next((n for n in names if n.endswith(ARCHIVES)), None)
    return f"{found} is an archive: unpack it here" if found else ""


def _too_deep(entries: list[Path], model_files: list[str]) -> str:
    for path in entries:
        if path.is_dir():
            for name in model_files:
                if (path / name).is_file():
                    return f"{path.name}/{name} lies one level too deep: move what is in {path.name} up, or name that folder"
    return ""


def _script(names: list[str]) -> str:
    return "inference.py belongs into the folder code: move it to code/inference.py" if "inference.py" in names else ""


def _hugging_face(names: list[str]) -> str:
    if "config.json" not in names or not set(names) & set(HUGGING_FACE_WEIGHTS):
        return ""
    return f"this is a model of Hugging Face, which needs a script; in code/inference.py: {HUGGING_FACE_LINES}"


def _other_name(names: list[str]) -> str:
    found = [n for n in names if n.endswith((".onnx", ".pt2"))]
    if not found:
        return ""
    if len(found) == 1:
        kind = Path(found[0]).suffix
        return f'{found[0]} is there: call it model{kind}, or say file = "{found[0]}" in model.toml'
    return f"{_listed(found)} are there: say which one serves by file = in model.toml, or give each a folder of its own"


def _pickle(names: list[str]) -> str:
    found = next((n for n in names if n.endswith((".pkl", ".pickle", ".joblib"))), None)
    return f"{found} is a pickle, which needs a script; in code/inference.py: {PICKLE_LINES.format(name=found)}" if found else ""


def _state(names: list[str]) -> str:
    found = next((n for n in names if n.endswith((".pth", ".ckpt", ".pt", ".bin", ".safetensors"))), None)
    return f"{found} holds weights: export the model as model.pt2, or load it in code/inference.py" if found else ""


def _others(names: list[str]) -> str:
    return f"there is only {_listed(names)}" if names else ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_TOLD} more" if len(names) > NAMES_TOLD else ""
    return ", ".join(names[:NAMES_TOLD]) + more
