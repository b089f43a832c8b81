"""What AWS's Hugging Face toolkit does where a script has no input_fn or output_fn: other bodies become other things than arrays.

    application/json            as Python has it: a dict or a list, never an array
    text/csv                    {"inputs": [text, ...]}, or {"inputs": [{name: cell, ...}, ...]} for other headers
    image/*                     {"inputs": an image of PIL, in RGB}
    audio/*                     {"inputs": bytes}

The conventions are those of sagemaker-huggingface-inference-toolkit. A folder counts as such a model's where HF_TASK is set,
where config.json beside the weights is one of transformers', or where model.toml says so.
"""

from __future__ import annotations

import importlib
import io
import json
from pathlib import Path
from typing import Any

from evenkeel.serve.codec.decoded_size import check_array
from evenkeel.serve.engine.backends.handler.handler_text import BOM, csv_records
from evenkeel.serve.errors import BadRequest, ModelFailed, UnsupportedMedia

TOOLKIT = "huggingface"  # in model.toml: [handler] toolkit
CONFIG_BYTES_MAX = 4 << 20
CONFIG_KEYS = ("model_type", "architectures", "transformers_version")
COLUMNS = ("inputs", "question", "context")  # a first line of CSV names one of them
CHANNELS = 3


def is_such_a_folder(folder: Path) -> bool:
    """By a config.json as transformers writes it."""
    path = folder / "config.json"
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            return False
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and any(key in config for key in CONFIG_KEYS)


def decoded_inputs(body: str | bytes, content_type: str) -> Any:
    """Raises BadRequest and UnsupportedMedia; ModelFailed where the image's library is missing."""
    kind = content_type.partition(";")[0].strip().lower()
    if not body:
        raise BadRequest("the body is empty")
    if kind.startswith("image/"):
        return {"inputs": _image(body if isinstance(body, bytes) else body.encode())}
    if kind.startswith("audio/"):
        return {"inputs": body}
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    if kind == "text/csv":
        return {"inputs": _csv_inputs(text)}
    if kind != "application/json":
        raise UnsupportedMedia(f"Content-Type {content_type!r}: without an input_fn of its own the handler of a Hugging Face "
                               "model reads application/json, text/csv, image/* and audio/*")  # fmt: skip
    try:
        return json.loads(text.removeprefix(BOM))
    except (ValueError, RecursionError) as e:
        raise BadRequest(f"the body is not JSON: {e}") from e


def _csv_inputs(text: str) -> list[Any]:
    first = text.lstrip(BOM).partition("\n")[0].lower()
    if not any(name in first for name in COLUMNS):
        raise BadRequest(f"the first line must name the columns, one of them {', '.join(COLUMNS)}")
    records = csv_records(text)
    return [record["inputs"] for record in records] if records and "inputs" in records[0] else records


def _image(body: bytes) -> Any:
    try:
        images = importlib.import_module("PIL.Image")
    except ModuleNotFoundError as e:
        raise ModelFailed("images become objects of Pillow, which is not installed: name it in code/requirements.txt, or "
                          "write an input_fn") from e  # fmt: skip
    try:
        image = images.open(io.BytesIO(body))
        width, height = image.size
        check_array(width * height * CHANNELS, "the image")
        return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, images.DecompressionBombError) as e:  # as Pillow has it for what is no image
        raise BadRequest(f"the body is no image that Pillow can read: {e}") from e
