"""The SageMaker Python SDK's serializers, byte for byte, and what its deserializers expect.

Each serializer is rewritten here in a line or two, after sagemaker-core's serializers/base.py.
"""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from evenkeel.serve.codec import Form, decoder_for, negotiate, parse_media
from tests.serve.codec.samples import model, same, x

THREE = model(x("float32", 3))
ROWS = np.array([[1, 2.5, 3], [4, 5, 6]], np.float32)


def _csv(flat: bool = False) -> bytes:
    """CSVSerializer: csv quoting, CRLF inside csv.writer stripped by rows joined with a newline, none at the end."""
    lines = []
    for row in ROWS[:1] if flat else ROWS:
        file = io.StringIO()
        csv.writer(file, delimiter=",").writerow(row.tolist())
        lines.append(file.getvalue().rstrip("\r\n"))
    return "\n".join(lines).encode()


def _frame() -> bytes:
    """DataFrame.to_csv(header=False, index=False) ends with a newline."""
    return b"1.0,2.5,3.0\n4.0,5.0,6.0\n"


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, ROWS)
    return file.getvalue()


def _lines() -> bytes:
    return "\n".join(json.dumps(row) for row in ROWS.tolist()).encode()


@pytest.mark.parametrize(
    "content_type, body",
    [
        ("text/csv", _csv()),
        ("text/csv", _frame()),
        ("text/csv; label_size=0", _csv()),
        ("application/x-npy", _npy()),
        ("tensor/pt", _npy()),
        ("application/json", json.dumps(ROWS.tolist()).encode()),
        ("application/json", json.dumps({"instances": ROWS.tolist()}).encode()),
        ("application/JSON", json.dumps({"instances": [{"features": row} for row in ROWS.tolist()]}).encode()),
        ("application/jsonlines", _lines()),
        ("application/octet-stream", ROWS.tobytes()),
        ("", json.dumps({"instances": ROWS.tolist()}).encode()),
    ],
)
def test_every_serializer_is_understood(content_type: str, body: bytes) -> None:
    decoded = decoder_for(content_type).decode(body, THREE, parse_media(content_type).params)
    assert decoded.rows == 2 and same(decoded.arrays[0], ROWS)


def test_a_flat_list_is_one_row() -> None:
    for mime, body in (("text/csv", _csv(flat=True)), ("application/json", json.dumps(ROWS[0].tolist()).encode())):
        assert same(decoder_for(mime).decode(body, THREE, {}).arrays[0], ROWS[:1])


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_the_sparse_matrix_serializer_is_understood(kind: str) -> None:
    scipy_sparse = pytest.importorskip("scipy.sparse")
    file = io.BytesIO()
    scipy_sparse.save_npz(file, scipy_sparse.coo_matrix(ROWS).asformat(kind))
    assert same(decoder_for("application/x-npz").decode(file.getvalue(), THREE, {}).arrays[0], ROWS)


@pytest.mark.parametrize(
    "accept, read",
    [
        ("text/csv", lambda body: [[float(cell) for cell in row] for row in csv.reader(body.decode().splitlines())]),
        ("application/x-npy", lambda body: np.load(io.BytesIO(body), allow_pickle=False).tolist()),
        ("tensor/pt", lambda body: np.load(io.BytesIO(body), allow_pickle=False).tolist()),
        ("application/x-npz", lambda body: np.load(io.BytesIO(body), allow_pickle=False)["x"].tolist()),
        ("application/json", lambda body: json.loads(body)["predictions"]),
        ("application/jsonlines", lambda body: [json.loads(line) for line in body.splitlines()]),
    ],
)
def test_every_deserializer_gets_its_exact_type_and_reads_the_rows(accept: str, read: object) -> None:
    codec = negotiate(accept, "application/json", None)
    assert codec.mime == accept, "NumpyDeserializer compares the whole value, so no parameters"
    assert read(codec.encode((ROWS,), THREE, Form.INSTANCES)) == ROWS.tolist()  # type: ignore[operator]


def test_pandas_deserializer_sends_a_list_and_its_first_entry_wins() -> None:
    assert negotiate("text/csv, application/json", "application/x-npy", None).mime == "text/csv"
