"""Bytes and messages: what one side frames the other reads, however it is cut; and what is no frame ends it."""

import json
import struct

import pytest

from muster.broker.frames import MOST_BYTES, BadFrame, FrameReader, frame


def test_what_is_framed_is_read() -> None:
    message = {"type": "ask", "id": 7, "features": {"größe": 1.5}, "tenant": "\ud800"}
    assert FrameReader().feed(frame(message)) == [message]


def test_a_frame_is_four_bytes_of_length_and_ascii_json() -> None:
    assert frame({"type": "ä"}) == b'\x00\x00\x00\x11{"type":"\\u00e4"}'


@pytest.mark.parametrize("step", [1, 2, 3, 5, 1000])
def test_frames_may_be_cut_anywhere(step: int) -> None:
    messages = [{"type": "start", "id": number} for number in range(20)]
    data = b"".join(map(frame, messages))
    reader, found = FrameReader(), []
    for at in range(0, len(data), step):
        found += reader.feed(data[at : at + step])
    assert found == messages


def test_a_frame_that_would_be_too_long_is_refused_before_it_comes() -> None:
    with pytest.raises(BadFrame, match=r"a frame of 65537 bytes: at most 65536 are taken") as told:
        FrameReader().feed(struct.pack(">I", MOST_BYTES + 1))
    assert told.value.reason == "too_large"


def test_a_frame_of_the_most_bytes_is_read() -> None:
    body = json.dumps({"type": "x" * (MOST_BYTES - 12)}).encode()
    assert len(body) == MOST_BYTES
    assert len(FrameReader().feed(struct.pack(">I", len(body)) + body)) == 1


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"{",
            b"[]",
            b"null",
            b'"ask"',
            b"{}",
            b'{"type": 1}',
            b'{"type": null}',
            b"\xff\xfe",
            b'{"type":"a"} x',
        ),
        b"[" * 30_000,
        b'{"type":"a","id":' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_object_with_a_type_is_no_frame(body: bytes) -> None:
    with pytest.raises(BadFrame) as told:
        FrameReader().feed(struct.pack(">I", len(body)) + body)
    assert told.value.reason == "not_understood"


def test_a_number_that_json_has_no_word_for_is_never_sent() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        frame({"type": "ask", "within": float("inf")})
