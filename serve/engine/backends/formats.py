"""What a model file really is, told by its first bytes: so that a wrong file is refused with its right name.

Frameworks answer a wrong file with a page of their own internals. Knows no framework, decides nothing else.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from evenkeel.serve.errors import BadModel

# First bytes -> (kind, what it is). A zip may be several kinds; its members tell, see `kind_of`.
MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "lfs", "a Git LFS pointer and not the file itself: run `git lfs pull` before packing"),
    (b"\x89HDF\r\n", "hdf5", "an HDF5 file (Keras): convert it to ONNX"),
    (b"\x1f\x8b", "gzip", "a gzip archive: unpack it into the model folder"),
    (b"\x93NUMPY", "npy", "a NumPy array and not a model"),
    (b"{", "text", "JSON text and not a model"),
    (b"<", "text", "HTML or XML text (perhaps the error page of a download) and not a model"),
    (b"\x80\x02", "pickle", "a Python pickle"),
    (b"\x80\x03", "pickle", "a Python pickle"),
    (b"\x80\x04", "pickle", "a Python pickle"),
    (b"\x80\x05", "pickle", "a Python pickle"),
)
ZIP_KINDS = {
    "torchscript": "a TorchScript archive: backend pytorch, file name ending in .pt",
    "pt2": "a torch.export archive: backend pytorch, file name ending in .pt2",
    "checkpoint": "a pickled PyTorch checkpoint: it needs a handler, code/inference.py, that loads it",
    "zip": "a zip archive of unknown content",
    "zip-cut": "a zip archive that is cut short: copy it again and compare sizes and checksums",
}


def kind_of(path: Path) -> tuple[str, str]:
    """Gives (kind, description) of the file; ("unknown", "") when its first bytes say nothing. Raises BadModel."""
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as e:
        raise BadModel(f"{path}: cannot be read: {e.strerror or e}") from e
    if not head:
        raise BadModel(f"{path}: the file is empty: copy the model again")
    if head.startswith(b"PK"):
        kind = _zip_kind(path)
        return kind, ZIP_KINDS[kind]
    return next(((kind, text) for magic, kind, text in MAGIC if head.startswith(magic)), ("unknown", ""))


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError):
        return "zip-cut"
    if members and min(member.header_offset for member in members) > 0:
        return "zip-cut"  # the directory of a zip inside was found, that of the file itself is gone
    ends = {member.filename.split("/", 1)[-1] for member in members}
    if "constants.pkl" in ends:
        return "torchscript"
    if ends & {"archive_format", "serialized_exported_program.json", "models/model.json"}:
        return "pt2"
    return "checkpoint" if "data.pkl" in ends else "zip"
