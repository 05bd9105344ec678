"""What a request's head means, if it means one thing only, and how it goes on to the container.

In: the start line and fields as llhttp read them. Out: a ``RequestHead``, or ``BadMessage`` with what is wrong. Here is
refused what llhttp lets through and somebody behind us might read differently: other spacing and versions of the start
line, no or several Hosts, transfer codings beside ``chunked``, lengths that are listed in ``Connection``, and
``Content_Length``, which servers of the CGI tradition take for ``Content-Length``.

What goes on: names, values, order, case and duplicates as they came, less the fields that are for one connection only
(RFC 9110, 7.6.1), with what a container has to know about the other side of the ingress: ``X-Forwarded-For`` with the
client's address appended, and ``-Proto``, ``-Host``, ``-Port``, of which the client's own are dropped. ``Host`` is
untouched.
"""

import re
from dataclasses import dataclass

from muster.http1.head_parser import BadMessage

Fields = list[tuple[bytes, bytes]]

_LINE = re.compile(rb"([A-Z][A-Z-]*) ([\x21-\x7e]+) HTTP/1\.([01])")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE)
_HOST = re.compile(rb"(?:[A-Za-z0-9._~%-]+|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?")
_LENGTH = re.compile(rb"\d{1,18}")

_HOP_BY_HOP = frozenset([b"connection", b"proxy-connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"])
_FORWARDED = frozenset([b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"])
_FRAMING = frozenset([b"host", b"content-length", b"transfer-encoding"])
_READ = _HOP_BY_HOP | _FORWARDED | _FRAMING | {b"expect"}
_DROPPED = _HOP_BY_HOP | _FORWARDED

_REPEATABLE = frozenset([b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"])
"""Idempotent: RFC 9110, 9.2.2."""
_NOT_UPGRADED = (b"h2c", b"http/", b"tls/")
"""With these the ingress would no longer see where a request ends, and a server may always ignore an upgrade."""


@dataclass(slots=True)
class RequestHead:
    """A request's head. ``length`` is ``None`` without ``Content-Length``; ``lines`` are the fields that go on."""

    method: bytes
    target: bytes
    is_http_10: bool
    host: bytes
    lines: list[bytes]
    length: int | None
    is_chunked: bool
    is_persistent: bool
    expects_continue: bool
    upgrade: bytes
    forwarded_for: bytes

    @property
    def has_body(self) -> bool:
        """Whether bytes follow the head."""
        return self.is_chunked or bool(self.length)

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be sent again although it may have arrived: idempotent, and nothing has to be kept for it."""
        return not self.has_body and self.method in _REPEATABLE


def read_request(start_line: bytes, fields: Fields) -> RequestHead:
    """Return what a head means. Raises ``BadMessage``."""
    line = _LINE.fullmatch(start_line)
    if line is None:
        raise BadMessage(400, "the request line is not METHOD TARGET HTTP/1.1, with one space between")
    method, target, minor = line.groups()
    is_http_10 = minor == b"0"
    lines: list[bytes] = []
    seen: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        lower = name.lower()
        if lower in _READ:
            seen.setdefault(lower, []).append(value.strip(b" \t"))
            if lower in _DROPPED:
                continue
        elif b"_" in name and _is_twin(lower):
            continue
        lines.append(b"%b: %b\r\n" % (name, value))
    host, target = _host(method, target, seen.get(b"host"), is_http_10=is_http_10)
    if b"host" not in seen and host:
        lines.append(b"Host: %b\r\n" % host)  # from the target of HTTP/1.0
    length, is_chunked = _framing(seen, is_http_10=is_http_10)
    options = connection_options(seen)
    if options - _PLAIN_OPTIONS:
        lines = _without(options, lines)
    return RequestHead(
        method=method,
        target=target,
        is_http_10=is_http_10,
        host=host,
        lines=lines,
        length=length,
        is_chunked=is_chunked,
        is_persistent=b"close" not in options and (not is_http_10 or b"keep-alive" in options),
        expects_continue=_expects_continue(seen, is_http_10=is_http_10),
        upgrade=b"" if is_http_10 or is_chunked or length else _upgrade(options, seen),
        forwarded_for=b", ".join(seen.get(b"x-forwarded-for", ())),
    )


def forwarded_request(head: RequestHead, peer: bytes, about: bytes, backend: bytes) -> bytes:
    """Return the head as the container gets it.

    ``peer`` is the client's address, ``about`` the lines that are the same for all of its requests, ``backend`` the
    name of a container that a client of HTTP/1.0 did not name.
    """
    before = head.forwarded_for
    parts = [b"%b %b HTTP/1.1\r\n" % (head.method, head.target)]
    if not head.host:
        parts.append(b"Host: %b\r\n" % backend)
    parts += head.lines
    if head.is_chunked:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    if head.upgrade:
        parts.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade)
    parts.append(b"X-Forwarded-For: %b%b%b\r\n" % (before, b", " if before else b"", peer))
    if head.host:
        parts.append(b"X-Forwarded-Host: %b\r\n" % head.host)
    parts.append(about)
    parts.append(b"\r\n")
    return b"".join(parts)


_PLAIN_OPTIONS = frozenset([b"close", b"keep-alive", b"upgrade", b"te", b""])
_NO_OPTIONS: frozenset[bytes] = frozenset()


def connection_options(seen: dict[bytes, list[bytes]]) -> frozenset[bytes]:
    """Return the options of all ``Connection`` fields in lower case. Raises ``BadMessage`` if framing is among them."""
    values = seen.get(b"connection")
    if values is None:
        return _NO_OPTIONS
    options = frozenset(option.strip(b" \t") for option in b",".join(values).lower().split(b","))
    if options & _FRAMING:
        raise BadMessage(400, "Connection names a field that the message cannot do without")
    return options


def _without(names: frozenset[bytes], lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if line.partition(b":")[0].lower() not in names]


def _is_twin(lower: bytes) -> bool:
    """Tell whether a name with underscores is to be dropped. Raises ``BadMessage`` if it looks like framing."""
    twin = lower.replace(b"_", b"-")
    if twin in _FRAMING:
        raise BadMessage(400, f"{lower.decode('ascii')} would be taken for {twin.decode('ascii')}")
    return twin in _DROPPED


def _host(method: bytes, target: bytes, hosts: list[bytes] | None, *, is_http_10: bool) -> tuple[bytes, bytes]:
    """Return the authority, empty if there is none, and the target in origin form."""
    if hosts is None and not is_http_10:
        raise BadMessage(400, "there is no Host")
    if hosts is not None and len(hosts) > 1:
        raise BadMessage(400, "there is more than one Host")
    if hosts is not None and _HOST.fullmatch(hosts[0]) is None:
        raise BadMessage(400, "Host is not a host name or address")
    if method == b"CONNECT":
        raise BadMessage(405, "this is not a proxy: CONNECT is not for containers")
    if b"#" in target:
        raise BadMessage(400, "the target has a fragment")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return hosts[0] if hosts else b"", target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or _HOST.fullmatch(absolute[1]) is None:
        raise BadMessage(400, "the target is neither a path nor a URL")
    authority, rest = absolute.groups()
    if hosts is not None and authority.lower() != hosts[0].lower():
        raise BadMessage(400, "the target names another host than Host")
    if not rest and method == b"OPTIONS":
        return authority, b"*"
    return authority, rest if rest.startswith(b"/") else b"/" + rest


def _framing(seen: dict[bytes, list[bytes]], *, is_http_10: bool) -> tuple[int | None, bool]:
    lengths, codings = seen.get(b"content-length"), seen.get(b"transfer-encoding")
    if codings is not None:
        if is_http_10:
            raise BadMessage(400, "HTTP/1.0 has no Transfer-Encoding")
        if lengths is not None:
            raise BadMessage(400, "both Content-Length and Transfer-Encoding")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadMessage(400, "a Transfer-Encoding other than chunked")
        return None, True
    if lengths is None:
        return None, False
    if len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
        raise BadMessage(400, "Content-Length is not one number")
    return int(lengths[0]), False


def _expects_continue(seen: dict[bytes, list[bytes]], *, is_http_10: bool) -> bool:
    expected = seen.get(b"expect")
    if expected is None or is_http_10:
        return False
    if [each.lower() for each in expected] != [b"100-continue"]:
        raise BadMessage(417, "an Expect other than 100-continue")
    return True


def _upgrade(options: frozenset[bytes], seen: dict[bytes, list[bytes]]) -> bytes:
    """Return the protocols that are asked for and may be."""
    if b"upgrade" not in options:
        return b""
    asked = (each.strip(b" \t") for each in b",".join(seen.get(b"upgrade", ())).split(b","))
    return b", ".join(each for each in asked if each and not each.lower().startswith(_NOT_UPGRADED))
