"""One sha256 for a whole model folder: what exactly is being served.

It is that of the lines that `sha256sum` prints for every file, in order of their names, so a person can check it:

    cd MODEL && find -L * -type f | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum

Left out is what `evenkeel pack` leaves out or adds: a packed and unpacked model has the same sum.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

RECORD = "evenkeel-manifest.json"  # written by `evenkeel pack`
SKIPPED = frozenset({"__pycache__", ".git", ".DS_Store"})


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file by its name, in order of the names. Links to files count as files (Kubernetes mounts are made of them)."""
    by_name: dict[str, Path] = {}
    for inside, names, leaves in os.walk(folder):
        names[:] = [n for n in names if n not in SKIPPED]
        for leaf in leaves:
            path = Path(inside) / leaf
            name = path.relative_to(folder).as_posix()
            if leaf not in SKIPPED and name != RECORD and path.is_file():
                by_name[name] = path
    yield from sorted(by_name.items(), key=lambda item: item[0].encode("utf-8", "surrogateescape"))


def sha256(folder: Path) -> str:
    """Raises OSError when a file cannot be read."""
    digest_of_all = hashlib.sha256()
    for name, path in files(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        digest_of_all.update(f"{digest}  {name}\n".encode("utf-8", "surrogateescape"))
    return digest_of_all.hexdigest()
