"""Text bodies and answers of handlers without functions of their own: CSV and JSON Lines, as AWS's toolkits take and give them.

Where those differ from what tensors get, AWS's way counts: an empty cell is NaN, a cell that needs quotes has them, and
records get a header of their keys.
"""

from __future__ import annotations

import array
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from evenkeel.serve.codec.csv_rows import CHARSETS, NUMBER, ODD_NUMBERS, quoted
from evenkeel.serve.codec.decoded_size import ARRAY_BYTES_MAX, OBJECT_BYTES, check_room
from evenkeel.serve.codec.media import parse_media
from evenkeel.serve.engine.backends.base import Array
from evenkeel.serve.engine.foreign import kind_of
from evenkeel.serve.engine.script_guard import Unfit
from evenkeel.serve.errors import BadRequest, BadShape, UnsupportedMedia

BOM = "\ufeff"  # editors of Windows write it before a text; it is no part of it


def text_of_body(body: bytes, content_type: str) -> str:
    """By the charset that is named, else UTF-8. Raises BadRequest and UnsupportedMedia."""
    params = parse_media(content_type).params if ";" in content_type else {}
    charset = CHARSETS.get(params.get("charset", "utf-8").lower())
    if charset is None:
        raise UnsupportedMedia(f"charset {params['charset'][:40]!r} is not supported: use one of {', '.join(CHARSETS)}")
    charset = "utf-8" if charset == "utf-8-sig" else charset  # the mark belongs to the body that a script gets
    try:
        return body.decode(charset)
    except UnicodeDecodeError as e:
        kind = content_type.partition(";")[0].strip().lower()
        raise BadRequest(f"the body is not {charset.upper()}, which {kind} must be: byte {e.start}") from e


def has_header(content_type: str) -> bool:
    return ";" in content_type and parse_media(content_type).params.get("header", "").lower() == "present"


# Reading --------------------------------------------------------------------------------------------------------------


def csv_table(text: str, header: bool) -> Array:
    """Rows of float32. Raises BadRequest, with the line and the column."""
    text = text.removeprefix(BOM)
    if not header and '"' not in text and ",," not in text and text.strip():
        try:
            return np.loadtxt(io.StringIO(text), dtype=np.float32, delimiter=",", comments=None, ndmin=2)
        except (ValueError, OverflowError):
            pass  # told below, or read: an empty cell at the end of a line
    cells = text.count(",") + text.count("\n") + 1
    check_room(OBJECT_BYTES * cells // 8 + 2 * len(text), ARRAY_BYTES_MAX, "the lines")
    values, columns = array.array("f"), 0
    for line, row in _csv_rows(text, header):
        columns = columns or len(row)
        if len(row) != columns:
            raise BadShape(f"line {line}: expected {columns} columns, got {len(row)}")
        values.extend(_number(cell, line, column) for column, cell in enumerate(row, 1))
    if not columns:
        raise BadRequest("the body holds no rows: send one line a row")
    return np.frombuffer(values, np.float32).reshape(-1, columns)


def csv_records(text: str) -> list[dict[str, str]]:
    """Rows by the names that the first line gives them. Raises BadRequest."""
    rows = _csv_rows(text.removeprefix(BOM), False)
    _, names = next(rows, (0, []))
    records = []
    for line, row in rows:
        if len(row) != len(names):
            raise BadShape(f"line {line}: expected {len(names)} columns, got {len(row)}")
        records.append(dict(zip(names, row, strict=True)))
    return records


def _csv_rows(text: str, header: bool) -> Iterator[tuple[int, list[str]]]:
    """Lines that are not blank, counted from 1 as editors do."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if header:
                header = False
            elif row:
                yield reader.line_num, row
    except csv.Error as e:
        raise BadRequest(f"line {reader.line_num}: not valid CSV: {e}") from e


def _number(cell: str, line: int, column: int) -> float:
    text = cell.strip(" \t")
    value = float(text) if NUMBER.fullmatch(text) else ODD_NUMBERS.get(text.lower())
    if value is None:
        raise BadRequest(f"line {line}, column {column}: {text[:40]!r} is not a number")
    return value


# Writing --------------------------------------------------------------------------------------------------------------


def csv_of(prediction: Any) -> bytes:
    """One line a row; of records (dicts, or rows of a data frame) also a first line with their keys. Raises Unfit."""
    records = _records(prediction)
    if records is not None:
        names = list(dict.fromkeys(name for record in records for name in record))
        rows: Iterator[Sequence[Any]] = ([record.get(name) for name in names] for record in records)
        lines = [names, *rows]
    else:
        table = np.atleast_1d(np.asarray(prediction))
        if table.ndim > 2:
            raise Unfit(f"it does not fit into CSV: it has {table.ndim} dimensions, and lines of cells have two")
        lines = [[value] for value in table] if table.ndim == 1 else list(table)
    return "".join(_line(cells) for cells in lines).encode("utf-8", "replace")


def _records(prediction: Any) -> list[Mapping[str, Any]] | None:
    if isinstance(prediction, Mapping):
        return [prediction]
    if isinstance(prediction, list) and prediction and all(isinstance(record, Mapping) for record in prediction):
        return prediction
    return None


def _line(cells: Sequence[Any]) -> str:
    written = [quoted(_cell(value)) for value in cells]
    return (",".join(written) if written != [""] else '""') + "\n"  # a line with nothing on it would be no row


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping | list | tuple | np.ndarray):
        raise Unfit(f"it does not fit into CSV: a cell is {kind_of(value)}")
    return str(value)


def rows_of(prediction: Any) -> Sequence[Any] | Array:
    """What is a line each in JSON Lines: the members of a list or of an array's first axis, else the whole."""
    if isinstance(prediction, list | tuple) or (isinstance(prediction, np.ndarray) and prediction.ndim):
        return prediction
    return [prediction]
