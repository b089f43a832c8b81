"""NPZ, a zip of NPY files: application/x-npz. Carries any number of named arrays, or one sparse matrix of SciPy.

The zip is read member by member with the sizes checked before anything is unpacked, and each member is read as strictly
as an NPY body. SciPy itself is not needed.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serve.codec.codec import Array, Body, Decoded, Form
from serve.codec.fit import DENSE_BYTES_MAX, check_names, finish
from serve.codec.npy import as_array, decode_array, fitted, read_layout, to_npy
from serve.codec.plan import Plan, plan_of
from serve.contract.signature import Signature
from serve.errors import BadRequest, BadShape

MEMBERS_MAX = 256
LOCAL_HEADER_BYTES = 30  # of a member, before its name; APPNOTE.TXT 4.3.7
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same answer gives the same bytes


class Npz:
    mime = "application/x-npz"

    def decode(self, body: Body, signature: Signature, params: Mapping[str, str]) -> Decoded:
        plan = plan_of(signature)
        arrays = _unpack(body)
        if "format" in arrays and "shape" in arrays and "format" not in plan.input_names:
            if plan.single is None:
                raise BadShape(f"a sparse matrix is one array, the model has {len(plan.inputs)} inputs")
            return decode_array(_dense(arrays, plan), plan)
        if arrays.keys() != plan.input_names and arrays.keys() == {f"arr_{i}" for i in range(len(plan.inputs))}:
            arrays = {spec.name: arrays[f"arr_{i}"] for i, spec in enumerate(plan.inputs)}  # numpy.savez without names
        check_names(arrays, plan, "the NPZ file")
        return finish([fitted(arrays[s.name], s, signature.rows_axis) for s in plan.inputs], plan, Form.INSTANCES)

    def encode(self, arrays: Sequence[Array], signature: Signature, form: Form, finite: bool = False) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for array, spec in zip(arrays, signature.outputs, strict=True):
                archive.writestr(zipfile.ZipInfo(f"{spec.name}.npy", _EPOCH), to_npy(array, spec))
        return file.getvalue()


def _unpack(body: Body) -> dict[str, Array]:
    if not body:
        raise BadRequest("the body is empty")
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(io.BufferedReader(_Reader(body))) as archive:
            members = archive.infolist()
            if len(members) > MEMBERS_MAX:
                raise BadRequest(f"the NPZ file has over {MEMBERS_MAX} members")
            if sum(member.file_size for member in members) > DENSE_BYTES_MAX:
                raise BadRequest(f"the NPZ file unpacks to more than {DENSE_BYTES_MAX >> 20} MiB")
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name in arrays or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise BadRequest(f"the NPZ file holds {name[:80]!r} twice, or compressed in an unknown way")
                content = _content(archive, member, body)
                try:
                    arrays[name] = as_array(content, read_layout(content))
                except BadRequest as e:
                    raise type(e)(f"array {name[:80]!r}: {e.message}") from e
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as e:
        raise BadRequest(f"not a readable NPZ file: {str(e)[:120]}") from e
    return arrays


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, body: Body) -> Body:
    """The bytes of one member. What is stored as it is, as numpy.savez writes it, is not copied."""
    if member.compress_type != zipfile.ZIP_STORED:
        return archive.read(member)  # never more than its file_size, whatever the data unpacks to
    archive.open(member).close()  # looks at the header in front of the data, and whether members overlap
    names, extra = struct.unpack_from("<HH", body, member.header_offset + 26)
    start = member.header_offset + LOCAL_HEADER_BYTES + names + extra
    content = memoryview(body)[start : start + member.file_size]
    if len(content) != member.file_size or member.compress_size != member.file_size or zlib.crc32(content) != member.CRC:
        raise BadRequest(f"not a readable NPZ file: the array {member.filename[:80]!r} is damaged")
    return content


class _Reader(io.RawIOBase):
    """A body as a file, without a copy of it."""

    def __init__(self, body: Body) -> None:
        self._body, self._at = memoryview(body), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        part = self._body[self._at : self._at + len(into)]
        into[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._body)}[whence]
        if at < 0:
            raise OSError(f"a place before the start: {at}")  # as a file does; zipfile counts on it
        self._at = at
        return at


def _dense(arrays: Mapping[str, Array], plan: Plan) -> Array:
    """The matrix that scipy.sparse.save_npz wrote as csr, csc or coo. Like SciPy, it adds up duplicate places."""
    kind = str(arrays["format"].astype(str)) if arrays["format"].dtype.kind in "SU" else ""
    parts = {"csr": ("indices", "indptr"), "csc": ("indices", "indptr"), "coo": ("row", "col")}.get(kind)
    if parts is None or any(part not in arrays for part in (*parts, "data")):
        raise BadRequest("the sparse matrix must be csr, csc or coo, as scipy.sparse.save_npz writes it")
    values, first, second, shape = (arrays[name] for name in ("data", *parts, "shape"))
    if any(part.dtype.kind not in "iu" for part in (first, second, shape)) or shape.shape != (2,) \
            or not first.ndim == second.ndim == values.ndim == 1 or values.dtype.kind not in "biuf":  # fmt: skip
        raise BadRequest("the sparse matrix is malformed: one-dimensional data and indices and a shape of two are needed")
    rows, columns = int(shape[0]), int(shape[1])
    if rows < 0 or columns < 0 or rows * columns * max(values.itemsize, 8) > DENSE_BYTES_MAX:
        raise BadRequest(f"the sparse matrix of shape [{rows}, {columns}] unfolds to more than {DENSE_BYTES_MAX >> 20} MiB")
    if kind == "coo":
        row, column = first, second
    else:
        outer = rows if kind == "csr" else columns
        pointers = second.astype(np.int64)
        if len(pointers) != outer + 1 or pointers[0] != 0 or pointers[-1] != len(values) or (np.diff(pointers) < 0).any():
            raise BadRequest("the sparse matrix is malformed: indptr does not fit the data")
        expanded = np.repeat(np.arange(outer), np.diff(pointers))
        row, column = (expanded, first) if kind == "csr" else (first, expanded)
    if not len(row) == len(column) == len(values):
        raise BadRequest("the sparse matrix is malformed: data and indices differ in length")
    for places, size in ((row, rows), (column, columns)):
        if len(places) and (int(places.min()) < 0 or int(places.max()) >= size):
            raise BadRequest("the sparse matrix is malformed: an index lies outside of its shape")
    dense = np.zeros((rows, columns), dtype=values.dtype.newbyteorder("="))
    np.add.at(dense, (row, column), values)
    return dense
