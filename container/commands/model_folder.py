"""The folder that was typed, looked at before anything is started for it."""

from __future__ import annotations

from pathlib import Path

from evenkeel.serve.errors import BadModel


def existing(folder: Path) -> Path:
    """Raises BadModel where it is none."""
    if folder.is_file():
        what = "unpack it into one" if folder.name.endswith((".tar.gz", ".tgz", ".zip")) else "name the one that holds it"
        raise BadModel(f"{folder} is a file, and a model is a folder: {what}")
    if not folder.is_dir():
        raise BadModel(f"model folder {folder} does not exist (seen from {Path.cwd()})")
    return folder
