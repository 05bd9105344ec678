"""From an accepted socket to a protocol that speaks with it: how many there may be, the first byte, the handshake.

In: sockets that listeners accepted, each with what is to become of it. Out: connections in the loop's hands, and counts
of those that never got there. Everything that is under way here is a task of the reception's; raw connections stay one
until they are over.

Above the limit a client is not left to wait: the next few are let in to be told so in HTTP, since only an answer tells
a client that it may try elsewhere, and all others are closed at once. Whoever says nothing, or does not come to the end
of the handshake, is closed after a while, so that silence costs nothing but a place. Noise on the wire (scanners,
health checks, garbage) is counted, never logged.
"""

import asyncio
import contextlib
import json
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, cast

from muster.ingress.gate import Gate
from muster.ingress.plaintext import FirstByte, first_byte, read_head, says_use_https
from muster.ingress.sockets import AcceptedSocket, close_politely
from muster.ingress.tcp import Side, splice
from muster.model.routes import REFUSED_HEADER, Refusal

GREETING_SECONDS = 10.0
"""For the first byte, and again for the handshake."""
GOODBYE_SECONDS = 3.0
"""For the other side's close_notify."""
HEAD_SECONDS = 2.0
TOLD_AT_ONCE = 64
"""How many connections above the limit are let in to be told."""
_TELLING_SECONDS = 5.0
_LOOK_SECONDS = 0.02
_log = logging.getLogger(__name__)


class Reception:
    """Receives connections while it is entered; on the way out all that it still holds end."""

    def __init__(self, context: ssl.SSLContext, most: int) -> None:
        self._context = context
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()
        self.open = 0
        """Connections that are open now."""
        self.turned_away = 0
        """Connections that were one too many."""
        self.failures: Counter[str] = Counter()
        """Connections that came to nothing before a protocol had them, by what they did."""

    async def __aenter__(self) -> Self:
        """Begin to receive."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what is still under way."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def empty(self, patience_seconds: float) -> bool:
        """Wait until no connection is open, but not longer than this; whether it came so far."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds):
                while self.open:  # noqa: ASYNC110  connections end in the loop's hands
                    await asyncio.sleep(_LOOK_SECONDS)
        return not self.open

    def take_tls(self, accepted: socket.socket, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        """Greet a client that is to speak TLS; ``factory`` makes what speaks with it inside."""
        if self.open >= self._most:
            self.turned_away += 1
            if self.open >= self._most + TOLD_AT_ONCE:
                accepted.close()
                return
            factory = _TurnedAway
        self.start(self._greet(self._counted(accepted), factory))

    def take_raw(self, accepted: socket.socket, gate: Gate, container_port: int) -> None:
        """Carry a client's bytes to a container and back."""
        if self.open >= self._most:
            self.turned_away += 1
            accepted.close()
            return
        self.start(self._carry(self._counted(accepted), gate, container_port))

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that belongs to a connection, until it is over or everything is."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _counted(self, accepted: socket.socket) -> AcceptedSocket:
        self.open += 1
        return AcceptedSocket(accepted, self._count_down)

    def _count_down(self) -> None:
        self.open -= 1

    async def _greet(self, client: AcceptedSocket, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(client.close)
            failure = await self._shake_hands(client, factory)
            if failure:
                self.failures[failure] += 1
            else:
                stack.pop_all()  # it is the loop's now

    async def _shake_hands(self, client: AcceptedSocket, factory: Callable[[], asyncio.BaseProtocol]) -> str:
        """Return what went wrong, nothing if a protocol has the connection now."""
        try:
            kind = await first_byte(client, GREETING_SECONDS)
            if kind is FirstByte.TEXT:
                answer = says_use_https(await read_head(client, HEAD_SECONDS), client.getsockname()[:2])
                await close_politely(client, answer)
            elif kind is FirstByte.OTHER:
                await close_politely(client)
            if kind is not FirstByte.TLS:
                return str(kind.value)
            await asyncio.get_running_loop().connect_accepted_socket(
                factory,
                client,
                ssl=self._context,
                ssl_handshake_timeout=GREETING_SECONDS,
                ssl_shutdown_timeout=GOODBYE_SECONDS,
            )
        except (TimeoutError, ConnectionAbortedError):  # the latter is what loops raise when a handshake takes too long
            return "timeout"
        except ssl.SSLError as error:
            return (error.reason or "tls").lower()
        except OSError:
            return "closed"
        except Exception:  # noqa: BLE001  one connection, not all of them
            _log.exception("a connection failed in a way that nobody foresaw")
            return "bug"
        else:
            return ""

    async def _carry(self, client: AcceptedSocket, gate: Gate, container_port: int) -> None:
        try:
            _, side = await asyncio.get_running_loop().connect_accepted_socket(Side, client)
        except OSError:
            client.close()
            return
        try:
            await splice(side, gate, container_port)
        except Exception:  # noqa: BLE001  one connection, not all of them
            _log.exception("a connection failed in a way that nobody foresaw")


class _TurnedAway(asyncio.Protocol):
    """Answers whatever is asked with the same refusal."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # a uvloop transport is no subclass
        asyncio.get_running_loop().call_later(_TELLING_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:  # noqa: ARG002  whatever it is
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_TOO_MANY)
            self._transport.close()


def _too_many() -> bytes:
    reason = Refusal.OVER_CAPACITY.value
    body = json.dumps({"error": "the ingress has as many connections as it may", "reason": reason}).encode() + b"\n"
    head = (
        f"HTTP/1.1 503 Service Unavailable\r\n{REFUSED_HEADER}: {reason}\r\nretry-after: 1\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


_TOO_MANY = _too_many()
