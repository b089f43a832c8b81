"""`evenkeel pack MODEL_DIR`: the tarball that SageMaker wants, and a record of what is in it.

No links, files at the root, the same bytes for the same files (names sorted, times and owners zeroed), and in it
`evenkeel-manifest.json` with the sha256 and size of every file.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from evenkeel.container.commands import model_folder
from evenkeel.serve.contract import manifest
from evenkeel.serve.contract.fingerprint import RECORD, SKIPPED
from evenkeel.serve.errors import BadModel


def pack(
    folder: Annotated[Path, Parameter(help="the model's folder")],
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="the file to write")] = Path("model.tar.gz"),
) -> int:
    """Make the model.tar.gz that SageMaker wants: no links, the same bytes for the same files.

    Example:

        evenkeel pack my-model -o model.tar.gz

    Exit codes: 0 written, 1 the folder is no model or holds what SageMaker refuses.
    """
    found = manifest.load(model_folder.existing(folder))
    if not output.name.endswith((".tar.gz", ".tgz")):
        raise BadModel(f"{output} would be a gzip tar under another name: call it .tar.gz, such as -o model.tar.gz")
    files = collect(folder, output)
    listed = {name: {"sha256": sha256(path), "bytes": path.stat().st_size} for name, path in files.items()}
    record = {"name": found.name, "version": found.version, "backend": found.backend, "files": listed}
    try:
        write(output, files, json.dumps(record, indent=2, sort_keys=True).encode() + b"\n")
    except OSError as e:
        raise BadModel(f"cannot write {output}: {e.strerror}") from e
    print(f"{output}: {len(files)} files, {output.stat().st_size} bytes, sha256 {sha256(output)}")
    return 0


def collect(model_dir: Path, output: Path) -> dict[str, Path]:
    """Every file by its name in the archive. Raises BadModel at the first link or special file."""
    files: dict[str, Path] = {}
    for folder, names, leaves in os.walk(model_dir):
        names[:] = sorted(n for n in names if n not in SKIPPED)
        for leaf in sorted([*leaves, *(n for n in names if (Path(folder) / n).is_symlink())]):
            path = Path(folder) / leaf
            name = path.relative_to(model_dir).as_posix()
            if leaf in SKIPPED or name == RECORD or path.resolve() == output.resolve():
                continue
            if path.is_symlink():
                raise BadModel(f"{name} is a symbolic link, which SageMaker refuses in model.tar.gz: put the file itself there")
            if not path.is_file():
                raise BadModel(f"{name} is not a regular file and cannot be packed")
            files[name] = path
    if not files:
        raise BadModel(f"{model_dir} holds no files to pack")
    return dict(sorted(files.items()))


def write(output: Path, files: dict[str, Path], record: bytes) -> None:
    """First beside `output`, then renamed: a half-written archive never bears its name."""
    part = output.with_name(output.name + ".part")
    try:
        with (
            part.open("wb") as raw,
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name, path in files.items():
                with path.open("rb") as data:
                    archive.addfile(_entry(name, path.stat().st_size, path.stat().st_mode & 0o111), data)
                print(f"  {name}", file=sys.stderr)
            archive.addfile(_entry(RECORD, len(record), 0), io.BytesIO(record))
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


def _entry(name: str, size: int, executable: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o755 if executable else 0o644  # readable by any user: SageMaker may run as one that is not root
    return entry


def sha256(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
