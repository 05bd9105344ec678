"""One request and its answer, while they last: what both sides need to know of it."""

from dataclasses import dataclass

from muster.http1.bodies import ChunkedReader, CloseReader, RequestBody
from muster.http1.load import load_text
from muster.http1.request_head import RequestHead
from muster.http1.response_head import ResponseHead
from muster.ingress.gate import Gate, Visit
from muster.model.routes import RouteState


@dataclass(slots=True, eq=False)
class Exchange:
    """``body`` reads what the client has still to send, ``None`` once that is all here.

    ``status`` is that of the answer whose head went to the client, 0 before. ``is_sent``: its head has gone to the
    container, so its body may. ``is_heard``: the container has sent a byte, so it has the request. ``is_last``: the
    client's connection ends with it.
    """

    head: RequestHead
    gate: Gate
    container_port: int
    visit: Visit
    body: RequestBody | None
    status: int = 0
    is_sent: bool = False
    is_heard: bool = False
    is_last: bool = False
    is_repeated: bool = False
    is_spliced: bool = False

    def load(self, theirs: bytes = b"") -> bytes:
        """Return the value of ``LOAD_HEADER`` as it is now."""
        return load_of(self.gate, self.container_port, theirs)

    def begin_answer(self, head: ResponseHead, *, is_leaving: bool) -> tuple[bytes, bool]:
        """Note that an answer begins; return its lines on the connection, and whether its body goes out chunked.

        ``is_leaving``: the client's connection is to end anyhow.
        """
        self.status = head.status
        body = head.body
        is_http_10 = self.head.is_http_10
        self.is_last = (
            is_leaving
            or isinstance(body, CloseReader)
            or (is_http_10 and isinstance(body, ChunkedReader))  # HTTP/1.0 knows no chunks: closing is the end
            or not self.head.is_persistent
            or self.body is not None  # the next request can only follow a whole one, and this may never be sent whole
            or self.gate.route.state is not RouteState.ACCEPT  # whatever follows is refused here
        )
        connection = connection_line(is_last=self.is_last, is_http_10=is_http_10)
        if is_http_10 or not isinstance(body, ChunkedReader):
            return connection, False
        return connection + b"Transfer-Encoding: chunked\r\n", True


def connection_line(*, is_last: bool, is_http_10: bool) -> bytes:
    """Return the field that says whether another request may follow, if it has to be said."""
    if is_last:
        return b"Connection: close\r\n"
    return b"Connection: keep-alive\r\n" if is_http_10 else b""


def load_of(gate: Gate, container_port: int, theirs: bytes = b"") -> bytes:
    """Return the value of ``LOAD_HEADER`` for a container port."""
    counts = gate.counts.get(container_port)
    return load_text(0 if counts is None else counts.in_flight, gate.route.concurrency, theirs)
