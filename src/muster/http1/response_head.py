"""What the head of a container's response means, and how it goes on to the client.

In: the start line and fields as llhttp read them, and what was asked. Out: a ``ResponseHead``, or ``BadMessage`` (the
status is the owner's choice: 502) where the body's end, or anything a client acts on, could be read in two ways.

Fields go on as they came, less those for one connection. What only the ingress may say a container cannot:
``REFUSED_HEADER`` and ``ERROR_HEADER`` do not go on, and of ``LOAD_HEADER`` what it may add is merged. The gateway,
which has the ingress behind it, reads them from ``refused`` and ``failed``.
"""

import re
from dataclasses import dataclass

from muster.http1.bodies import ChunkedReader, CloseReader, LengthReader, ResponseBody
from muster.http1.head_parser import BadMessage
from muster.http1.load import own_pairs
from muster.http1.request_head import Fields, connection_options
from muster.model.routes import ERROR_HEADER, LOAD_HEADER, REFUSED_HEADER

SWITCHING = 101
_NO_CONTENT = 204
_NOT_MODIFIED = 304

_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?")
_LENGTH = re.compile(rb"\d{1,18}")

_LOAD, _REFUSED, _FAILED = LOAD_HEADER.encode(), REFUSED_HEADER.encode(), ERROR_HEADER.encode()
OURS = frozenset([_LOAD, _REFUSED, _FAILED])
_HOP_BY_HOP = frozenset([b"connection", b"proxy-connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"])
_DROPPED = _HOP_BY_HOP | OURS
_READ = _DROPPED | {b"content-length"}
_PLAIN_OPTIONS = frozenset([b"close", b"keep-alive", b"upgrade", b"te", b""])


@dataclass(slots=True)
class ResponseHead:
    """A response's head. ``body`` reads what follows, ``None`` if nothing does; ``load`` is the container's own.

    ``refused`` and ``failed`` are the values of ``REFUSED_HEADER`` and ``ERROR_HEADER``, which are not among ``lines``.
    """

    status: int
    reason: bytes
    lines: list[bytes]
    body: ResponseBody | None
    is_persistent: bool
    upgrade: bytes
    load: bytes
    refused: bytes = b""
    failed: bytes = b""

    @property
    def is_interim(self) -> bool:
        """Whether another head follows for the same request."""
        return self.status < 200 and self.status != SWITCHING


def read_response(start_line: bytes, fields: Fields, method: bytes, most_trailer_bytes: int) -> ResponseHead:
    """Return what a head means as an answer to ``method``. Raises ``BadMessage``."""
    line = _LINE.fullmatch(start_line)
    if line is None:
        raise BadMessage(502, "the status line is not HTTP/1.1 STATUS REASON")
    is_http_10, status = line[1] == b"0", int(line[2])
    has_content = method != b"HEAD" and status >= 200 and status not in {_NO_CONTENT, _NOT_MODIFIED}
    lines: list[bytes] = []
    seen: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        lower = name.lower()
        if lower in _READ:
            seen.setdefault(lower, []).append(value.strip(b" \t"))
            # A length says nothing where there cannot be content (RFC 9110, 8.6), but for HEAD and 304.
            if lower in _DROPPED or status < 200 or status == _NO_CONTENT:
                continue
        lines.append(b"%b: %b\r\n" % (name, value))
    options = connection_options(seen)
    if options - _PLAIN_OPTIONS:
        lines = [each for each in lines if each.partition(b":")[0].lower() not in options]
    body = _body(seen, most_trailer_bytes, is_http_10=is_http_10, has_content=has_content)
    return ResponseHead(
        status=status,
        reason=line[3] or b"",
        lines=lines,
        body=body,
        is_persistent=_is_persistent(options, body, is_http_10=is_http_10),
        upgrade=b", ".join(seen.get(b"upgrade", ())),
        load=own_pairs(b",".join(seen[_LOAD])) if _LOAD in seen else b"",
        refused=seen[_REFUSED][0] if _REFUSED in seen else b"",
        failed=seen[_FAILED][0] if _FAILED in seen else b"",
    )


def forwarded_response(head: ResponseHead, load: bytes, about: bytes) -> bytes:
    """Return the head as the client gets it; ``about`` are lines on the connection to it, and on chunks."""
    parts = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason), *head.lines]
    if load:
        parts.append(b"%b: %b\r\n" % (_LOAD, load))
    parts.append(about)
    parts.append(b"\r\n")
    return b"".join(parts)


def _is_persistent(options: frozenset[bytes], body: ResponseBody | None, *, is_http_10: bool) -> bool:
    if isinstance(body, CloseReader) or b"close" in options:
        return False
    return not is_http_10 or b"keep-alive" in options


def _body(
    seen: dict[bytes, list[bytes]], most_trailer_bytes: int, *, is_http_10: bool, has_content: bool
) -> ResponseBody | None:
    lengths, codings = seen.get(b"content-length"), seen.get(b"transfer-encoding")
    if codings is not None:
        if is_http_10 or lengths is not None or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadMessage(502, "a Transfer-Encoding that is not clear")
        return ChunkedReader(most_trailer_bytes) if has_content else None
    if lengths is not None:
        if len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
            raise BadMessage(502, "Content-Length is not one number")
        return LengthReader(int(lengths[0])) if has_content and int(lengths[0]) else None
    return CloseReader() if has_content else None
