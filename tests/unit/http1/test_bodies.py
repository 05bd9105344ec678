"""Chunks against llhttp, which reads them too, and the words for load."""

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.http1.bodies import ChunkedReader, LengthReader, chunk, last_chunk
from muster.http1.head_parser import BadMessage
from muster.http1.load import load_text, own_pairs


def ours(data: bytes, piece_bytes: int) -> tuple[bytes, int] | None:
    """Return payload and length of a chunked body, ``None`` if it is refused or goes on."""
    reader, payload, at = ChunkedReader(1000), list[bytes](), 0
    try:
        while at < len(data) and not reader.is_over:
            at += reader.take(data[at : at + piece_bytes], payload)
    except BadMessage:
        return None
    return (b"".join(payload), at) if reader.is_over else None


class Theirs:
    def __init__(self) -> None:
        self.payload = b""
        self.is_over = False

    def on_body(self, data: bytes) -> None:
        self.payload += data

    def on_message_complete(self) -> None:
        self.is_over = True


def theirs(data: bytes) -> bytes | None:
    seen = Theirs()
    try:
        parser = httptools.HttpRequestParser(seen)
        parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    except httptools.HttpParserError:
        return None
    return seen.payload if seen.is_over else None


@st.composite
def chunked(draw: st.DrawFn) -> bytes:
    data = b""
    for payload in draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5)):
        data += b"%x%b\r\n%b\r\n" % (
            len(payload),
            draw(st.sampled_from([b"", b"", b";a=b", b";a", b';a="b; c";d'])),
            payload,
        )
    data += b"0\r\n" + draw(st.sampled_from([b"", b"X: y\r\n"])) + b"\r\n"
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data = (
            data[:at]
            + draw(st.sampled_from([b"", b"\r", b"\n", b"0", b";", b" "]))
            + data[at + draw(st.integers(0, 1)) :]
        )
    return data


@given(chunked(), st.integers(1, 50))
def test_what_is_taken_for_a_chunked_body_llhttp_reads_in_the_same_way(data: bytes, piece_bytes: int) -> None:
    read = ours(data, piece_bytes)
    assert read == ours(data, len(data))
    if read is not None:
        assert theirs(data[: read[1]]) == read[0]


@given(st.lists(st.lists(st.binary(max_size=20), max_size=3), max_size=5), st.binary(max_size=10))
def test_chunks_are_written_as_they_are_read(pieces: list[list[bytes]], after: bytes) -> None:
    written = b""
    for each in pieces:
        payload = list(each)
        chunk(payload)
        written += b"".join(payload)
    written += last_chunk([(b"X-Sum", b"1"), (b"Host", b"evil"), (b"content_length", b"9"), (b"Ours", b"1")], {b"ours"})
    assert written.endswith(b"0\r\nX-Sum: 1\r\n\r\n")
    assert ours(written + after, 7) == (b"".join(map(b"".join, pieces)), len(written))


def test_a_counted_body_ends_where_its_length_says() -> None:
    reader, payload = LengthReader(5), list[bytes]()
    assert [reader.take(data, payload) for data in (b"hel", b"lo, world")] == [3, 2]
    assert reader.is_over
    assert payload == [b"hel", b"lo"]


def test_endless_lines_between_chunks_are_refused() -> None:
    reader = ChunkedReader(100)
    reader.take(b"0\r\n", [])
    with pytest.raises(BadMessage):
        reader.take(b"X: yy\r\n" * 30, [])
    with pytest.raises(BadMessage):
        ChunkedReader(100).take(b"5;" + b"a" * 5000, [])


@pytest.mark.parametrize(
    ("told", "pairs"),
    [
        (b"TEXT cpu_utilization=0.3, mem=1e3", b"cpu_utilization=0.3,mem=1e3"),
        (b"text a=1", b"a=1"),
        (b"JSON {}", b""),
        (b"TEXT a=1\x00,b=2,c,=3,d=x", b"b=2"),
        (b"", b""),
    ],
)
def test_of_a_containers_own_load_what_is_a_number_is_kept(told: bytes, pairs: bytes) -> None:
    assert own_pairs(told) == pairs


def test_the_load_says_utilization_only_where_there_is_a_limit() -> None:
    assert load_text(3, None) == b"TEXT named_metrics.in_flight=3"
    assert load_text(1, None, b"application_utilization=0.9").endswith(b",application_utilization=0.9")
    assert load_text(1, 4, b"application_utilization=0.9") == (
        b"TEXT named_metrics.in_flight=1,named_metrics.concurrency=4,application_utilization=0.25"
    )
