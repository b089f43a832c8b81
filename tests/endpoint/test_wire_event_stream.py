"""Frames of a streamed answer, read by botocore's own reader."""

from __future__ import annotations

from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.endpoint.wire.event_stream import payload_part, stream_error


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.integers(1, 64))
def test_parts_arrive_whole_however_they_are_cut(parts: list[bytes], step: int) -> None:
    wire = b"".join(map(payload_part, parts))
    buffer = EventStreamBuffer()
    read = []
    for at in range(0, len(wire), step):
        buffer.add_data(wire[at : at + step])
        read += list(buffer)
    assert [message.payload for message in read] == parts
    assert all(message.headers[":event-type"] == "PayloadPart" for message in read)


def test_an_error_within_the_stream_names_its_kind() -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(stream_error("ModelStreamError", ErrorCode="StreamBroken", Message="gone"))
    [message] = list(buffer)
    assert message.headers[":message-type"] == "exception" and message.headers[":exception-type"] == "ModelStreamError"
    assert message.payload == b'{"ErrorCode":"StreamBroken","Message":"gone"}'
    assert message.to_response_dict()["status_code"] == 400
