"""NPZ, a zip of NPY files: application/x-npz. Carries any number of named arrays, or one sparse matrix of SciPy.

The zip is read member by member with the sizes checked before anything is unpacked, and each member is read as strictly
as an NPY body. SciPy itself is not needed.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evenkeel.serve.codec.codec import ROOM_BYTES, Array, Body, Decoded, Form
from evenkeel.serve.codec.codec_plan import STORED, CodecPlan, plan_of
from evenkeel.serve.codec.decoded_size import QUICK_BYTES, QUICK_OUTPUT_BYTES, check_array, check_room
from evenkeel.serve.codec.fit import check_names, finish, place
from evenkeel.serve.codec.npy import (
    HEADER_BYTES_MAX,
    NpyHeader,
    as_array,
    becomes,
    decode_array,
    fitted,
    header_bytes,
    read_layout,
    to_npy,
)
from evenkeel.serve.codec.zip_directory import read_directory
from evenkeel.serve.contract.signature import Signature, TensorSpec
from evenkeel.serve.errors import BadRequest, BadShape

START_BYTES = 128  # as numpy writes the header of a plain array
PIECE_BYTES = 1 << 20
SPARSE_NAMES = (b"shape.npy", b"shape")  # of a matrix that may unfold to anything
LOCAL_HEADER_BYTES = 30  # of a member, before its name; APPNOTE.TXT 4.3.7
INDEX_BYTES = 32  # of each value, while the matrix is unfolded
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same answer gives the same bytes


class Npz:
    mime = "application/x-npz"
    quick_output_bytes = QUICK_OUTPUT_BYTES

    def decode(self, body: Body, signature: Signature, params: Mapping[str, str], room: int = ROOM_BYTES) -> Decoded:
        plan = plan_of(signature)
        if not body:
            raise BadRequest("the body is empty")
        try:
            with opened(body) as archive:
                return _decode(archive, members_of(archive, room), body, plan, room)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as e:
            raise BadRequest(f"not a readable NPZ file: {str(e)[:120]}") from e

    def is_quick(self, body: Body, signature: Signature) -> bool:
        """Also for what is refused at its directory. Texts become Python objects, however they are packed."""
        try:
            directory = read_directory(body)
        except BadRequest:
            return True
        texts = any(spec.dtype == "string" for spec in signature.inputs)
        return directory.unpacked <= QUICK_BYTES and not texts and not any(name in SPARSE_NAMES for name in directory.names)

    def encode(self, arrays: Sequence[Array], signature: Signature, form: Form, finite: bool = False) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for array, spec in zip(arrays, signature.outputs, strict=True):
                archive.writestr(zipfile.ZipInfo(f"{spec.name}.npy", _EPOCH), to_npy(array, spec))
        return file.getvalue()


def _decode(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], body: Body, plan: CodecPlan, room: int) -> Decoded:
    """Names, headers and sizes are looked at before anything large is unpacked."""
    if "format" in members and "shape" in members and "format" not in plan.input_names:
        if plan.single is None:
            raise BadShape(f"a sparse matrix is one array, the model has {len(plan.inputs)} inputs")
        arrays = {name: _array(archive, name, members[name], body, None, plan) for name in members}
        return decode_array(_dense(arrays, plan.single, room), plan)
    if members.keys() != plan.input_names and members.keys() == {f"arr_{i}" for i in range(len(plan.inputs))}:
        members = {spec.name: members[f"arr_{i}"] for i, spec in enumerate(plan.inputs)}  # numpy.savez without names
    check_names(members, plan, "the NPZ file")
    arrays = {spec.name: _array(archive, spec.name, members[spec.name], body, spec, plan) for spec in plan.inputs}
    rows_axis = plan.signature.rows_axis
    return finish([fitted(arrays[spec.name], spec, rows_axis) for spec in plan.inputs], plan, Form.INSTANCES)


def opened(body: Body) -> zipfile.ZipFile:
    """Only an archive whose directory is in order: zipfile makes an object of each entry before anybody can count them."""
    read_directory(body)
    return zipfile.ZipFile(io.BufferedReader(_Reader(body)))


def members_of(archive: zipfile.ZipFile, room: int) -> dict[str, zipfile.ZipInfo]:
    """By array name, once the directory promises no more than there is room for."""
    listed = archive.infolist()
    check_room(sum(member.file_size for member in listed), room, "the NPZ file")
    members: dict[str, zipfile.ZipInfo] = {}
    for member in listed:
        name = member.filename.removesuffix(".npy")
        if name in members:
            raise BadRequest(f"the NPZ file holds {name[:80]!r} twice")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadRequest(f"array {name[:80]!r} is compressed in a way that is not known here: store or deflate it")
        members[name] = member
    return members


def _array(
    archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo, body: Body, spec: TensorSpec | None, plan: CodecPlan
) -> Array:
    """One member. `spec`: the input that it must fit, by its header, before the rest of it is unpacked."""
    try:
        if member.compress_type == zipfile.ZIP_STORED:
            content = _stored(archive, member, body)
            layout = read_layout(content)
            _check_layout(layout, spec, plan)
        else:
            content, layout = _inflated(archive, member, spec, plan)
        return as_array(content, layout)
    except BadRequest as e:
        raise type(e)(f"array {name[:80]!r}: {e.message}") from e


def _check_layout(layout: NpyHeader, spec: TensorSpec | None, plan: CodecPlan) -> None:
    if spec is None:
        check_array(layout.end, "a part of the sparse matrix")
        return
    place(np.broadcast_to(np.empty((), layout.dtype), layout.shape), spec, plan.signature.rows_axis)
    items = math.prod(layout.shape)
    size = becomes(layout, spec) if spec.dtype == "string" else items * STORED[spec.dtype].itemsize
    check_array(size, f"input {spec.name!r}")


def _inflated(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, spec: TensorSpec | None, plan: CodecPlan
) -> tuple[memoryview, NpyHeader]:
    """The header first, then all of it into memory of its size. Never more comes than `file_size`, whatever it unpacks to."""
    with archive.open(member) as file:
        start = file.read(START_BYTES)
        header = start + file.read(max(0, min(header_bytes(start), HEADER_BYTES_MAX) - len(start))) if start[11:] else start
        layout = read_layout(header, member.file_size)
        _check_layout(layout, spec, plan)
        content = np.empty(member.file_size, np.uint8).data
        content[: len(header)] = header
        at = len(header)
        while at < len(content):
            part = file.read(PIECE_BYTES)
            if not part:
                raise EOFError(f"the array {member.filename[:80]!r} is cut short")
            content[at : at + len(part)] = part
            at += len(part)
        file.read(1)  # at its end the checksum is compared
    return content, layout


def _stored(archive: zipfile.ZipFile, member: zipfile.ZipInfo, body: Body) -> Body:
    """The bytes of a member that is stored as it is, as numpy.savez writes it. They are not copied."""
    archive.open(member).close()  # looks at the header in front of the data, and whether members overlap
    names, extra = struct.unpack_from("<HH", body, member.header_offset + 26)
    start = member.header_offset + LOCAL_HEADER_BYTES + names + extra
    content = memoryview(body)[start : start + member.file_size]
    if len(content) != member.file_size or member.compress_size != member.file_size or zlib.crc32(content) != member.CRC:
        raise BadRequest("it is damaged")
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


def _dense(arrays: Mapping[str, Array], spec: TensorSpec, room: int) -> Array:
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
    if rows < 0 or columns < 0:
        raise BadRequest(f"the sparse matrix is malformed: its shape is [{rows}, {columns}]")
    what = f"the sparse matrix of shape [{rows}, {columns}], unfolded,"
    check_array(rows * columns * STORED[spec.dtype].itemsize, what)
    check_room(rows * columns * (values.itemsize + STORED[spec.dtype].itemsize) + INDEX_BYTES * len(values), room, what)
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
