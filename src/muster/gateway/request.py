"""How a request goes on to a replica: its own lines, less what was for the gateway, and what the replica has to know.

``Host`` is the endpoint's, since an ingress of the domain layout finds the container by it; what the client asked for
is in ``X-Forwarded-Host``. Not passed on are the API key and the balancer's options (``Passage.dropped``), every
``x-muster-*``, and ``Expect`` once the client has been told to continue.
"""

from muster.gateway.pools import Address
from muster.gateway.port import Passage
from muster.http1.request_head import RequestHead

_OURS = b"x-muster-"


class Outgoing:
    """One request's head, as far as it is the same for every replica."""

    __slots__ = ("_after", "_expect", "_method", "_target")

    def __init__(self, head: RequestHead, passage: Passage, peer: bytes, about: bytes) -> None:
        dropped = passage.dropped
        lines: list[bytes] = []
        self._expect = b""
        for line in head.lines:
            name = line[: line.index(b":")].lower()
            if name == b"host" or name in dropped or name.startswith(_OURS):
                continue
            if name == b"expect":
                self._expect = line
            else:
                lines.append(line)
        if head.is_chunked:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        if head.upgrade:
            lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade)
        before = head.forwarded_for
        lines.append(b"X-Forwarded-For: %b%b%b\r\n" % (before, b", " if before else b"", peer))
        if head.host:
            lines.append(b"X-Forwarded-Host: %b\r\n" % head.host)
        lines.append(about)
        lines.append(b"\r\n")
        self._method = head.method
        self._target = passage.target
        self._after = b"".join(lines)

    def to(self, address: Address, *, expects_continue: bool) -> bytes:
        """Return the head as one replica gets it."""
        target = self._target
        return b"%b %b%b HTTP/1.1\r\nHost: %b\r\n%b%b" % (
            self._method,
            address.prefix if target != b"*" else b"",
            target,
            address.netloc,
            self._expect if expects_continue else b"",
            self._after,
        )
