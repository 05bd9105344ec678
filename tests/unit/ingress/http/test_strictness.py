"""What is refused: a table of attempts at request smuggling and other ambiguity, and bytes that nobody thought of.

Every entry of the table was sent to somebody once so that two servers would read it differently. None may reach the
container, nor may what an attacker hid behind it.
"""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.http1.head_parser import BadMessage, HeadParser
from muster.http1.request_head import RequestHead, forwarded_request, read_request
from tests.unit.ingress.http.ground import GET, answers_ok, client_of, run, value, world

EVIL = b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"


def a_request(*lines: bytes, start: bytes = b"POST / HTTP/1.1", host: bytes = b"Host: a", body: bytes = b"") -> bytes:
    return b"\r\n".join([start, *([host] if host else []), *lines, b"", body])


CHUNKED = b"Transfer-Encoding: chunked"

CORPUS: list[tuple[str, bytes, int]] = [
    # Two lengths.
    ("length and chunks", a_request(b"Content-Length: 6", CHUNKED, body=b"0\r\n\r\nG"), 400),
    ("chunks and length", a_request(CHUNKED, b"Content-Length: 6", body=b"0\r\n\r\nG"), 400),
    ("two lengths", a_request(b"Content-Length: 0", b"Content-Length: 5", body=b"hello"), 400),
    ("one length twice", a_request(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), 400),
    ("a list of lengths", a_request(b"Content-Length: 5, 5", body=b"hello"), 400),
    ("a length with a sign", a_request(b"Content-Length: +5", body=b"hello"), 400),
    ("a negative length", a_request(b"Content-Length: -5", body=b"hello"), 400),
    ("a length in hexadecimal", a_request(b"Content-Length: 0x5", body=b"hello"), 400),
    ("an empty length", a_request(b"Content-Length:", body=b"hello"), 400),
    ("a length with a space in it", a_request(b"Content-Length: 1 0", body=b"hello"), 400),
    ("a length with an underscore", a_request(b"Content_Length: 0", b"Content-Length: 5", body=b"hello"), 400),
    ("a length beyond 64 bits", a_request(b"Content-Length: 18446744073709551621", body=b"hello"), 400),
    ("a length beyond 18 digits", a_request(b"Content-Length: 9999999999999999999", body=b"hello"), 400),
    (
        "a length hidden in Connection",
        a_request(b"Content-Length: 5", b"Connection: content-length", body=b"hello"),
        400,
    ),
    # Other codings.
    ("chunked twice", a_request(CHUNKED, CHUNKED, body=b"0\r\n\r\n"), 400),
    ("chunked, then identity", a_request(CHUNKED, b"Transfer-Encoding: identity", body=b"0\r\n\r\n"), 400),
    ("gzip, chunked", a_request(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 400),
    ("chunked, gzip", a_request(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"), 400),
    ("xchunked", a_request(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 400),
    ("identity", a_request(b"Transfer-Encoding: identity"), 400),
    ("an empty coding", a_request(b"Transfer-Encoding:"), 400),
    ("a quoted coding", a_request(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"), 400),
    ("a coding behind a vertical tab", a_request(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), 400),
    ("a coding before a form feed", a_request(b"Transfer-Encoding: chunked\x0c", body=b"0\r\n\r\n"), 400),
    ("a coding with a space before its colon", a_request(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), 400),
    ("a coding with a tab before its colon", a_request(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n"), 400),
    ("a coding on a folded line", a_request(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"), 400),
    ("a coding folded into another field", a_request(b"X: y\r\n Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    ("a coding after a bare LF", a_request(b"X: y\nTransfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    ("a coding after a bare CR", a_request(b"X: y\rTransfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    ("a coding after a NUL", a_request(b"X: y\x00Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    ("a coding with an underscore", a_request(b"Transfer_Encoding: chunked", body=b"0\r\n\r\n"), 400),
    ("a coding in HTTP/1.0", a_request(CHUNKED, start=b"POST / HTTP/1.0", body=b"0\r\n\r\n"), 400),
    ("a coding hidden in Connection", a_request(CHUNKED, b"Connection: Transfer-Encoding", body=b"0\r\n\r\n"), 400),
    # Lines and names.
    ("a folded line", a_request(b"X: a\r\n  b"), 400),
    ("a fold before the first field", a_request(host=b" Host: a"), 400),
    ("bare LFs", b"GET / HTTP/1.1\nHost: a\n\n", 400),
    ("a bare LF at the end", b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    ("a bare CR at the end", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400),
    ("a CR in a value", a_request(b"X: a\rb"), 400),
    ("a NUL in a value", a_request(b"X: a\x00b"), 400),
    ("a DEL in a value", a_request(b"X: a\x7fb"), 400),
    ("a space before a colon", a_request(b"X : a"), 400),
    ("a space in a name", a_request(b"X Y: a"), 400),
    ("no name", a_request(b": a"), 400),
    ("no colon", a_request(b"X"), 400),
    ("a bracket in a name", a_request(b"X(: a"), 400),
    ("a letter beyond ASCII in a name", a_request(b"X\xe4: a"), 400),
    # The start line.
    ("two spaces", a_request(start=b"GET  / HTTP/1.1"), 400),
    ("a tab for a space", a_request(start=b"GET\t/ HTTP/1.1"), 400),
    ("a space after the version", a_request(start=b"GET / HTTP/1.1 "), 400),
    ("no version", b"GET /\r\n\r\n", 400),
    ("HTTP/0.9", a_request(start=b"GET / HTTP/0.9"), 400),
    ("HTTP/1.2", a_request(start=b"GET / HTTP/1.2"), 400),
    ("HTTP/2.0", a_request(start=b"GET / HTTP/2.0"), 400),
    ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ("RTSP", a_request(start=b"GET / RTSP/1.0"), 400),
    ("a method in small letters", a_request(start=b"get / HTTP/1.1"), 400),
    ("an unknown method", a_request(start=b"EVIL / HTTP/1.1"), 400),
    ("two empty lines first", b"\r\n\r\n" + GET, 400),
    ("a control character in the target", a_request(start=b"GET /\x01 HTTP/1.1"), 400),
    ("a byte beyond ASCII in the target", a_request(start=b"GET /\xe4 HTTP/1.1"), 400),
    ("a fragment in the target", a_request(start=b"GET /a#b HTTP/1.1"), 400),
    ("a target without a slash", a_request(start=b"GET a HTTP/1.1"), 400),
    ("a star for GET", a_request(start=b"GET * HTTP/1.1"), 400),
    ("CONNECT", a_request(start=b"CONNECT a:80 HTTP/1.1"), 405),
    # Whom it is for.
    ("no Host", a_request(host=b""), 400),
    ("two Hosts", a_request(b"Host: b"), 400),
    ("one Host twice", a_request(b"Host: a"), 400),
    ("an empty Host", a_request(host=b"Host:"), 400),
    ("a Host with a path", a_request(host=b"Host: a/b"), 400),
    ("a Host with a name before it", a_request(host=b"Host: u@a"), 400),
    ("a Host with a space", a_request(host=b"Host: a b"), 400),
    ("another host in the target", a_request(start=b"GET http://b/ HTTP/1.1"), 400),
    ("another port in the target", a_request(start=b"GET http://a:81/ HTTP/1.1"), 400),
    ("a name before the host in the target", a_request(start=b"GET http://a@b/ HTTP/1.1"), 400),
    ("another scheme in the target", a_request(start=b"GET ftp://a/ HTTP/1.1"), 400),
    ("Host hidden in Connection", a_request(b"Connection: Host"), 400),
    ("another Expect", a_request(b"Expect: 200-ok"), 417),
    # Not HTTP at all.
    ("a TLS hello", bytes.fromhex("16030100c8010000c40303") + bytes(200), 400),
    ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n", 400),
    ("nothing but NULs", bytes(100), 400),
]


@pytest.mark.parametrize(("sent", "status"), [each[1:] for each in CORPUS], ids=[each[0] for each in CORPUS])
def test_ambiguous_requests_are_refused_with_words_and_nothing_reaches_the_container(sent: bytes, status: int) -> None:
    async def main() -> None:
        async with world(answers_ok) as (backend, ingress), client_of(ingress) as client:
            await client.say(sent + EVIL)
            head, body = await client.answer()
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert value(head, b"connection") == b"close"
            assert json.loads(body)["error"]
            client.writer.write_eof()
            assert await client.rest() == b""
            assert backend.connections == 0

    run(main())


@pytest.mark.parametrize(
    "chunks",
    [
        b"5 \r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\rX\nhello\r\n0\r\n\r\n",
        b"5;a\x00\r\nhello\r\n0\r\n\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhelloo\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"ffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b";a\r\nhello\r\n0\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\nX: y\n\r\n",
        b"0\r\nX\r\n\r\n",
        b"0\r\n y\r\n\r\n",
        b"0\n\n",
    ],
)
def test_ambiguous_chunks_are_refused_and_no_end_of_the_body_is_made_up(chunks: bytes) -> None:
    async def main() -> None:
        async with world(answers_ok) as (backend, ingress), client_of(ingress) as client:
            await client.say(a_request(CHUNKED, body=b"3\r\nabc\r\n"))
            await client.say(chunks + EVIL)
            while not (head := await client.head()).startswith(b"HTTP/1.1 400 "):
                await client.exactly(2)  # the server answers before the end of the body
            assert head
            assert all(b"evil" not in each for each in backend.heads)

    run(main())


@pytest.mark.parametrize(
    ("sent", "target", "host"),
    [
        (a_request(start=b"GET http://A/x?y HTTP/1.1"), b"/x?y", b"a"),
        (a_request(start=b"GET http://a?y HTTP/1.1"), b"/?y", b"a"),
        (a_request(start=b"GET http://a HTTP/1.1"), b"/", b"a"),
        (a_request(start=b"OPTIONS http://a HTTP/1.1"), b"*", b"a"),
        (a_request(start=b"OPTIONS * HTTP/1.1"), b"*", b"a"),
        (a_request(start=b"GET http://b:1/x HTTP/1.0", host=b""), b"/x", b"b:1"),
        (a_request(start=b"GET //x HTTP/1.1", host=b"Host: [::1]:80"), b"//x", b"[::1]:80"),
    ],
)
def test_what_a_proxy_would_be_sent_goes_on_as_to_a_server(sent: bytes, target: bytes, host: bytes) -> None:
    head = accepted(sent)
    assert head is not None
    onward = forwarded_request(head, b"1.2.3.4", b"", b"c:1")
    assert onward.split(b" ")[1] == target
    assert value(onward, b"host") == host


def accepted(data: bytes, *, piece_bytes: int = 1 << 20) -> RequestHead | None:
    """Return what is understood of bytes, in pieces; ``None`` if they are refused or go on."""
    parser = HeadParser(is_request=True, most_bytes=10_000, most_fields=50)
    try:
        for at in range(0, len(data), piece_bytes):
            if parser.feed(data[at : at + piece_bytes]) >= 0:
                return read_request(parser.start_line, parser.fields)
    except BadMessage:
        pass
    return None


# RFC 9112, sections 3 and 5, written down once more: what no one may misread.
WELL_FORMED = re.compile(
    rb"(?:\r\n)?[A-Z-]+ [\x21\x22\x24-\x7e]+ HTTP/1\.[01]\r\n"
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n"
)
GOOD = [
    GET,
    a_request(b"Content-Length: 5", body=b"hello"),
    a_request(CHUNKED, b"X-Y: z", body=b"0\r\n\r\n"),
    a_request(b"Connection: Upgrade", b"Upgrade: websocket", start=b"GET /a HTTP/1.1"),
]
NASTY = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b"\x00",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"\x0b",
        b"\x7f",
        b"\xff",
        b"\r\n ",
        b"_",
        b"0",
        b"#",
    ]
)
WORDS = st.sampled_from(
    [CHUNKED, b"Content-Length: 5", b"Content-Length: 0", b"Host: b", b"HTTP/1.1", b"GET", b"chunked", b"\r\nX: y"]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = draw(st.sampled_from(GOOD))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 3))
        data = data[:at] + draw(st.one_of(NASTY, WORDS, st.binary(max_size=2))) + data[at + cut :]
    return data


@given(st.one_of(mutated(), st.binary(max_size=200)))
def test_only_well_formed_heads_are_understood(data: bytes) -> None:
    head = accepted(data)
    if head is None:
        return
    assert WELL_FORMED.match(data)
    whole = data[: data.index(b"\r\n\r\n") + 4].lower()
    assert (
        whole.count(b"\r\nhost:") == (0 if head.is_http_10 and not head.host else 1)
        or head.target != data.split(b" ")[1]
    )
    assert whole.count(b"\r\ncontent-length:") + whole.count(b"\r\ntransfer-encoding:") <= 1
    # What goes on is understood in the same way by the same strict reader, and says the same.
    onward = accepted(forwarded_request(head, b"1.2.3.4", b"", b"c:1"))
    assert onward is not None
    assert (onward.method, onward.target, onward.length, onward.is_chunked, onward.upgrade) == (
        head.method,
        head.target,
        head.length,
        head.is_chunked,
        head.upgrade,
    )


@given(st.one_of(mutated(), st.sampled_from(GOOD)), st.integers(1, 40))
def test_how_bytes_are_cut_into_pieces_changes_nothing(data: bytes, piece_bytes: int) -> None:
    assert accepted(data) == accepted(data, piece_bytes=piece_bytes)


@given(st.lists(st.one_of(mutated(), st.binary(min_size=1, max_size=50)), min_size=5, max_size=10))
def test_whatever_is_sent_only_well_formed_heads_arrive(attempts: list[bytes]) -> None:
    async def main() -> None:
        async with world(answers_ok) as (backend, ingress):
            for attempt in attempts:
                async with client_of(ingress) as client:
                    await client.say(attempt + EVIL)
                    client.writer.write_eof()
                    await client.reader.read(1000)
            for head in backend.heads:
                assert WELL_FORMED.fullmatch(head)

    run(main())
