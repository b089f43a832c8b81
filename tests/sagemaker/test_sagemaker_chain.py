"""A pipeline as the platform runs it: several containers in one network namespace, each with its port, one range for all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Start
from tests.process.test_process_batch import ECHO, FIRST, LAST, handler
from tests.sagemaker.box import Box, Room, wire
from tests.sagemaker.image_box import ImageBox
from tests.support.wire import request

PORTS = (8080, 8081, 8082)
RANGE = "8080-8099"  # the data ports lie in it, and no sidecar may take one of them


@pytest.mark.image
@pytest.mark.contract("12.29")
def test_three_containers_in_one_network_namespace_answer_in_turn(start_image: Start, tmp_path: Path) -> None:
    middle = tmp_path / "middle"
    middle.mkdir()
    (middle / "model.toml").write_text(ECHO)
    boxes: list[Box] = []
    beside = ""
    for folder, port in zip((handler(tmp_path / "first", FIRST), middle, handler(tmp_path / "last", LAST)), PORTS, strict=True):
        settings = {"SAGEMAKER_BIND_TO_PORT": str(port), "SAGEMAKER_SAFE_PORT_RANGE": RANGE}
        box = start_image(folder, Room(settings, beside=beside))
        assert isinstance(box, ImageBox)
        boxes.append(box)
        beside = beside or box.name
    body, kind = b"1,2\n3,4\n", "text/csv"
    for box in boxes:
        with wire(box) as w:
            reply = w.ask(request(body, kind))
        assert reply.status == 200, reply.raw
        body, kind = reply.body, reply.headers["content-type"]
    assert (body, kind) == (b"3\n7\n", "text/csv")
    assert [box.stop() for box in reversed(boxes)] == [0, 0, 0]
