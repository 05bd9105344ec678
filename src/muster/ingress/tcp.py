"""Raw bytes both ways between a client and a container.

``splice`` takes a client whose connection is made, enters the container's gate, connects to the container and joins the
two. Each side that reads slower than the other writes holds it up, so nothing piles up here. The visit lasts until both
connections are over.

An end is passed on as what it is: the end of one direction (half-close) as that, the other one goes on; a reset as a
reset, so that nobody takes half an answer for a whole one. Over TLS there is no half-close: the libraries on both
ends answer the end of one direction with the end of the other. There the end of one side ends the connection, once what
the other side was sent before has gone out.

Nothing of ours limits how long a connection lasts, or how long it is silent.
"""

import asyncio
from typing import cast

from muster.ingress.gate import Gate, Visit
from muster.ingress.sockets import reset
from muster.model.container import Address
from muster.model.routes import Refusal

CONNECT_SECONDS = 10.0
"""A container on this host answers in microseconds; one that drops packets is not waited for."""
_LINGER_SECONDS = 2.0


class Side(asyncio.Protocol):
    """One of the two connections of a splice. What comes before it has a peer is kept: one read, then it waits.

    That it may come is uvloop's doing: it begins to read after ``connection_made``, also if it was told there to pause.
    """

    def __init__(self) -> None:
        self.over: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        """Becomes done, with what broke it if anything did, when the connection is over."""
        self._transport: asyncio.Transport | None = None
        self._peer: Side | None = None
        self._early = b""
        self._discards = False
        self.has_ended = False
        """Whether it said all that it had to say."""

    @property
    def transport(self) -> asyncio.Transport:
        """The connection, once it is made."""
        assert self._transport is not None
        return self._transport

    def meet(self, peer: "Side") -> None:
        """Pass everything that comes on to ``peer``, from now on."""
        self._peer = peer
        if self._early:
            self.data_received(self._early)
            self._early = b""
        if self.has_ended:
            if not self._pass_end_on(peer):
                self.transport.close()
        elif not self.transport.is_closing():
            self.transport.resume_reading()
        if peer.transport.is_closing():
            self.transport.close()

    def dismiss(self) -> None:
        """Close it without having served it, and without a reset that could overtake the close."""
        transport = self.transport
        if transport.is_closing():
            return
        if not transport.can_write_eof():  # TLS says goodbye by itself
            transport.close()
            return
        self._discards = True
        transport.write_eof()
        transport.resume_reading()
        asyncio.get_running_loop().call_later(_LINGER_SECONDS, transport.close)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have it."""
        self._transport = cast("asyncio.Transport", transport)  # a uvloop transport is no subclass

    def data_received(self, data: bytes) -> None:
        """Pass on."""
        if self._peer is None:
            if not self._discards:
                self._early += data
                self.transport.pause_reading()
        elif not self._peer.transport.is_closing():
            self._peer.transport.write(data)

    def eof_received(self) -> bool:
        """Pass the end of this direction on; whether the other one goes on."""
        self.has_ended = True
        if self._discards:
            return False
        return self.transport.can_write_eof() if self._peer is None else self._pass_end_on(self._peer)

    def pause_writing(self) -> None:
        """Hold the peer up: this side takes no more for now."""
        if self._peer is not None and not self._peer.transport.is_closing():
            self._peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """Let the peer go on."""
        if self._peer is not None and not self._peer.transport.is_closing():
            self._peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the peer too: as this one ended, by itself or broken."""
        if not self.over.done():
            self.over.set_result(exc)
        if self._peer is None:
            return
        if exc is None:
            self._peer.transport.close()
        else:
            reset(self._peer.transport)

    def _pass_end_on(self, peer: "Side") -> bool:
        """Tell the peer that no more will come; whether it may still say something itself."""
        theirs = peer.transport
        if not (self.transport.can_write_eof() and theirs.can_write_eof()):
            theirs.close()
            return False
        if not theirs.is_closing():
            theirs.write_eof()
        if peer.has_ended:
            theirs.close()
            return False
        return True


async def splice(client: Side, gate: Gate, container_port: int) -> None:
    """Connect a client to its container, or dismiss it; returns when both connections are over."""
    loop = asyncio.get_running_loop()
    visit = gate.enter(container_port, loop.time())
    sides = [client]
    try:
        if isinstance(visit, Refusal):
            await _dismissed(client)
            return
        container = await _connect(_backend(gate, container_port))
        if container is None:
            visit.refused(Refusal.UNREACHABLE)
            await _dismissed(client)
            return
        sides.append(container)
        await _join(client, container, visit)
    finally:  # with connections that are not over: cancelled, this process ends
        for side in sides:
            side.transport.abort()
        if isinstance(visit, Visit):
            visit.leave(loop.time(), failed=True)


async def _join(client: Side, container: Side, visit: Visit) -> None:
    loop = asyncio.get_running_loop()
    visit.heard(loop.time())
    client.meet(container)
    container.meet(client)
    await asyncio.wait((client.over, container.over))
    visit.leave(loop.time(), failed=container.over.result() is not None and client.over.result() is None)


async def _dismissed(client: Side) -> None:
    client.dismiss()
    await client.over


def _backend(gate: Gate, container_port: int) -> Address:
    port = gate.port(container_port)
    assert port is not None
    assert port.backend is not None  # or there was no visit
    return port.backend


async def _connect(backend: Address) -> Side | None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, side = await loop.create_connection(Side, backend.host, backend.port)
    except (OSError, TimeoutError):
        return None
    return side
