"""What a model folder holds: one model, or versions of one as `<name>/<version>/`. Reads names only, loads nothing.

Versions are ordered like a person would: runs of digits compare as numbers, everything else as text. So 10 is above 9,
1.10 above 1.9 and v2 above v1; 1.0-rc1 is above 1.0, so name the wanted version where versions are called like that.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from evenkeel.serve.contract.manifest import BARE_FILES
from evenkeel.serve.errors import BadModel

NAME_CHARS_MAX = 128  # of a model or version: they are labels of metrics and stand in a header of every reply
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
# A folder with one of these holds somebody's project, and folders of models in it are no versions of one another.
PROJECT = (".git", "pyproject.toml", "setup.py", "package.json", "Makefile")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """`name` empty: the folder itself is the one model, without versions. `versions` in ascending order."""

    folder: Path
    name: str = ""
    versions: tuple[str, ...] = ()

    def path(self, version: str) -> Path:
        return self.folder / self.name / version if self.name else self.folder

    def choose(self, wanted: str) -> str:
        """The version to serve; without a wish the highest. Raises BadModel."""
        if not self.name and wanted:
            raise BadModel(f"version {wanted!r} is wanted, but {self.folder} holds one model and no versions: {LAYOUT}")
        if wanted and wanted not in self.versions:
            raise BadModel(f"{self.name} has no version {wanted!r} in {self.folder}; there is {', '.join(self.versions)}")
        return wanted or (self.versions[-1] if self.versions else "")


LAYOUT = "lay them out as NAME/VERSION/, each with a model in it"


def read(folder: Path, program: str = "") -> Catalogue:
    """`program`: a handler's file that makes a folder a model's, too. Raises BadModel when there are versions of more than one
    model, when nobody can say which version is which, or when the folder cannot be entered."""
    try:
        return _read(folder, program)
    except OSError as e:
        raise BadModel(f"model folder {folder} cannot be read: {e.strerror}; user {os.geteuid()} needs the rights for it") from e


def _read(folder: Path, program: str) -> Catalogue:
    if holds_model(folder, program):
        return Catalogue(folder)
    by_model = {name: versions for name in _folders(folder) if (versions := _versions(folder / name, program))}
    if not by_model or any((folder / name).exists() for name in PROJECT):
        return Catalogue(folder)  # anyone who loads it says what is missing
    if len(by_model) > 1:
        raise BadModel(
            f"{folder} holds versions of {len(by_model)} models ({', '.join(sorted(by_model))}); one container serves one"
        )
    ((name, versions),) = by_model.items()
    strange = [n for n in (name, *versions) if not _NAME.fullmatch(n) or len(n) > NAME_CHARS_MAX]
    if strange:
        raise BadModel(f"{folder / name}: {strange[0]!r} is no name for a model or version: letters, digits and ._+- only")
    return Catalogue(folder, name, tuple(sorted(versions, key=order)))


def holds_model(folder: Path, program: str = "") -> bool:
    """Whether a model lies directly in it; whether it can be served is another question."""
    own = (f"code/{program}", program) if program else ()
    return any((folder / name).is_file() for name in ("model.toml", *own, *(file for file, _ in BARE_FILES)))


def order(version: str) -> tuple[tuple[int, int, str], ...]:
    """The sort key of a version. Text sorts before numbers, so that 2-rc1 < 2.1 and both are above 2."""
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|\D+", version))


def _folders(folder: Path) -> list[str]:
    """Hidden ones are left out: anyone who copies a version in does it under such a name, and renames it when it is whole."""
    try:
        return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.is_dir())
    except OSError:
        return []


def _versions(folder: Path, program: str) -> list[str]:
    return [name for name in _folders(folder) if holds_model(folder / name, program)]
