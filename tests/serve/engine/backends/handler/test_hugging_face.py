"""Scripts of AWS's Hugging Face containers that leave input_fn and output_fn to the toolkit."""

from __future__ import annotations

import io
import json
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
from model_folder import Folder

from evenkeel.serve.engine.backends.base import LoadOptions, RawReply, RawRequest
from evenkeel.serve.engine.backends.handler.handler_backend import load
from evenkeel.serve.engine.backends.handler.hugging_face import decoded_inputs
from evenkeel.serve.errors import BadModel, BadRequest, BodyTooLarge, ModelFailed, UnsupportedMedia

PIPELINE = "def model_fn(d): return lambda inputs, **more: [{'label': repr(type(inputs).__name__), 'got': inputs}]\n"
CONFIG = json.dumps({"model_type": "bert", "architectures": ["BertForSequenceClassification"]})


@pytest.fixture(autouse=True)
def _clean_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("inference", None)


class Image:
    """What Pillow gives, as far as it is asked for."""

    def __init__(self, size: tuple[int, int], mode: str = "CMYK") -> None:
        self.size, self.mode = size, mode

    def convert(self, mode: str) -> Image:
        return Image(self.size, mode)


@pytest.fixture
def pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    images: Any = types.ModuleType("PIL.Image")

    def opened(file: io.BytesIO) -> Image:
        text = file.read()
        if not text.startswith(b"image"):
            raise OSError("cannot identify image file")
        return Image((100_000, 100_000) if b"huge" in text else (2, 3))

    images.open, images.Image, images.DecompressionBombError = opened, Image, type("DecompressionBombError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "PIL", types.ModuleType("PIL"))
    monkeypatch.setitem(sys.modules, "PIL.Image", images)


def answered(folder: Folder, body: bytes, content_type: str, accept: str = "application/json", **more: Any) -> Any:
    folder.put("code/inference.py", PIPELINE)
    backend = load(folder.manifest(more.pop("data", None)), LoadOptions(threads=1, **more))
    (reply,) = backend.handle([RawRequest(body, content_type, accept, "id-1")])
    if isinstance(reply, Exception):
        raise reply
    assert isinstance(reply, RawReply)
    return json.loads(reply.body) if reply.content_type == "application/json" else reply.body.decode()


@pytest.mark.parametrize("by", ["config", "setting", "manifest"])
def test_a_json_list_reaches_the_pipeline_as_a_list(folder: Folder, by: str) -> None:
    if by == "config":
        folder.put("config.json", CONFIG)
    data = {"handler": {"toolkit": "huggingface"}} if by == "manifest" else None
    (got,) = answered(folder, b'["a", "b"]', "application/json", data=data, hugging_face=by == "setting")
    assert got == {"label": "'list'", "got": ["a", "b"]}


def test_without_a_sign_of_it_a_list_is_an_array(folder: Folder) -> None:
    folder.put("config.json", '{"mine": 1}')
    assert answered(folder, b"[1]", "application/json")[0]["label"] == "'ndarray'"


def test_the_manifest_can_say_that_it_is_none(folder: Folder) -> None:
    folder.put("config.json", CONFIG)
    assert answered(folder, b"[1]", "application/json", data={"handler": {"toolkit": "pytorch"}})[0]["label"] == "'ndarray'"
    with pytest.raises(BadModel, match=r"handler\.toolkit = 'keras' is not one of pytorch, sklearn, huggingface"):
        folder.manifest({"handler": {"toolkit": "keras"}})


def test_csv_is_a_list_of_inputs_and_goes_out_with_a_header(folder: Folder) -> None:
    folder.put("config.json", CONFIG)
    assert answered(folder, b'inputs\n"a, b"\nc\n', "text/csv")[0]["got"] == ["a, b", "c"]
    with pytest.raises(BadRequest, match="the first line must name the columns"):
        answered(folder, b"1,2\n", "text/csv")


def test_other_columns_are_records() -> None:
    assert decoded_inputs("question,context\nwho?,me\n", "text/csv") == {"inputs": [{"question": "who?", "context": "me"}]}


def test_audio_is_bytes_and_an_image_is_one_of_pillow(pillow: None) -> None:
    assert decoded_inputs(b"RIFF", "audio/x-wav") == {"inputs": b"RIFF"}
    image = decoded_inputs(b"image", "image/x-image")["inputs"]
    assert isinstance(image, Image) and (image.size, image.mode) == ((2, 3), "RGB")
    with pytest.raises(BadRequest, match="no image that Pillow can read"):
        decoded_inputs(b"junk", "image/png")
    with pytest.raises(BodyTooLarge, match="the image takes"):
        decoded_inputs(b"image huge", "image/png")


def test_without_pillow_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModelFailed, match=r"Pillow, which is not installed: name it in code/requirements.txt"):
        decoded_inputs(b"x", "image/png")


def test_what_it_does_not_read_is_named(folder: Folder) -> None:
    with pytest.raises(UnsupportedMedia, match=r"application/json, text/csv, image/\* and audio/\*"):
        decoded_inputs(b"x", "video/mp4")
    with pytest.raises(UnsupportedMedia, match=r'toolkit = "huggingface" in model\.toml'):
        answered(folder, b"x", "image/png")
