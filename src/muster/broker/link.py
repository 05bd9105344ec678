"""The connection of one service's client to its broker: made, kept, lost and made again, beside the client's work.

In: where brokers are said to be (``broker_url`` of the set, or the caller's own list), and the frames that they send.
Out: a ``Seat`` that is attached to the gate, up or down. Nobody ever waits for a link: while it is down the gate
chooses by itself, and whatever goes wrong here is logged once and tried again later.

Frames of one turn of the loop are written together. The seat is used under the gate's lock, from whatever thread. A
service that several event loops use has a link in each; one is attached, and another takes over when its loop ends.

Coming back. A connection that broke is made anew after a random part of a heartbeat, so that the clients of a broker
that restarts do not all come at once; later the pause grows to ``LONGEST_PAUSE_SECONDS``. One that says that
another broker serves (``standby``) is left for the next address at once. A refusal that a person has to mend (a wrong
token, another version) is asked again only every ``REFUSED_PAUSE_SECONDS``.
"""

import asyncio
import contextlib
import functools
import logging
import math
import os
import random
import socket
import ssl
import threading
from collections import deque
from collections.abc import Sequence
from typing import cast

from muster.balancer.waiting import Gate
from muster.broker.address import read_address
from muster.broker.frames import BadFrame, FrameReader, frame
from muster.broker.messages import HEARTBEAT_SECONDS, Bye, Message
from muster.broker.seat import Seat, State
from muster.errors import BalancerError, InvalidSpec
from muster.model.endpoint import ServiceKey

CONNECT_SECONDS = 2.0
FIRST_PAUSE_SECONDS = HEARTBEAT_SECONDS
LONGEST_PAUSE_SECONDS = 5.0
MISSED_SECONDS = 15.0
"""For so long a broker that was of use is looked for as often as at first: most restarts take a few seconds."""
REFUSED_PAUSE_SECONDS = 30.0
UNKNOWN_PAUSE_SECONDS = 1.0
"""Between looks at a set that names no broker."""
MOST_FRAME_BYTES = 1024 * 1024

_HOPELESS = frozenset({"unauthenticated", "newer_version", "older_version", "never_starts", "not_understood"})

_log = logging.getLogger(__name__)


def addresses(urls: str) -> tuple[str, ...]:
    """Read one address or several, separated by commas. Raises ``InvalidSpec``."""
    found = tuple(filter(None, map(str.strip, urls.split(","))))
    for url in found:
        read_address(url, "broker")
    return found


class Link:
    """One service's; give ``run`` a task. ``urls`` is where brokers are, ``None`` for what the set says."""

    def __init__(
        self, gate: Gate, key: ServiceKey, token: str, *, urls: Sequence[str] | None = None, client: str = ""
    ) -> None:
        self._gate = gate
        self._urls = urls
        name = client or f"{socket.gethostname()}/{os.getpid()}"
        self._seat = gate.with_core(lambda core, _: Seat(core, key, token, name))
        self._complained: dict[str, str] = {}

    async def run(self) -> None:
        """Connect, again and again, until cancelled, and whatever goes wrong. Another link's gate is waited for."""
        try:
            while True:
                try:
                    await self._keep()
                except Exception:  # noqa: BLE001 - whatever it is, the service goes on without a broker meanwhile
                    _log.exception("the broker of %s cannot be asked; choosing without it", self._gate.service)
                    await asyncio.sleep(REFUSED_PAUSE_SECONDS)
        finally:
            self._gate.detach(self._seat)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        failures = turn = standby = 0
        used_at = -math.inf
        while True:
            urls = await self._known()
            while not self._gate.attach(self._seat, loop):  # noqa: ASYNC110 rare
                await asyncio.sleep(UNKNOWN_PAUSE_SECONDS)
            url = urls[turn % len(urls)]
            turn += 1
            said, was_up = await self._visit(url)
            reason = "" if said is None else said.reason
            if was_up:
                used_at = loop.time()
            if was_up or reason == "standby":
                failures = 0  # there is a broker, or will be soon
            else:
                failures += 1
            if reason == "standby" and standby < len(urls) - 1:
                standby += 1
                continue
            standby = 0
            if reason in _HOPELESS:
                pause = REFUSED_PAUSE_SECONDS
            elif loop.time() - used_at < MISSED_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            else:
                pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** max(0, failures // len(urls) - 1))
            await asyncio.sleep(pause * random.uniform(0.1, 1.0))  # noqa: S311 - spreads load, hides nothing

    async def _known(self) -> Sequence[str]:
        """Return where brokers are, once that is known."""
        while True:
            if self._urls:
                return self._urls
            with contextlib.suppress(BalancerError):
                await self._gate.wait_for_endpoints(0, UNKNOWN_PAUSE_SECONDS)
            present = self._gate.endpoints
            if present is not None and present.broker_url:
                try:
                    found = addresses(present.broker_url)
                    if found:
                        return found
                except InvalidSpec as error:
                    self._complain("", f"the set of {self._gate.service} names no broker that can be asked: {error}")
            await asyncio.sleep(UNKNOWN_PAUSE_SECONDS)

    async def _visit(self, url: str) -> tuple[Bye | None, bool]:
        """Be connected until that ends; return what the broker said last, and whether it was of use."""
        loop = asyncio.get_running_loop()
        connection = _Connection(self._gate, self._seat, url, loop)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await _open(url, connection, self._ca_pem)
        except (OSError, TimeoutError, ValueError, TypeError) as error:  # the last two: a name or a CA that is none
            self._complain(url, f"the broker of {self._gate.service} cannot be reached at {url}: {words(error)}")
            return None, False
        try:
            said = await connection.ended
        finally:
            connection.abandon()
        if connection.was_up:
            _log.info("%s: without the broker at %s now: %s", self._gate.service, _plain(url), _plain(connection.why))
            self._complained.clear()
        elif said is None or said.reason != "standby":
            self._complain(url, f"the broker of {self._gate.service} at {url}: {connection.why}")
        return said, connection.was_up

    @property
    def _ca_pem(self) -> str | None:
        present = self._gate.endpoints
        return present.ca_pem if present else None

    def _complain(self, url: str, why: str) -> None:
        if why != self._complained.get(url):
            self._complained[url] = why
            _log.warning("%s; choosing without it", _plain(why))


class _Connection(asyncio.Protocol):
    """One connection. ``ended`` is what the broker said last, ``None`` if it just ended; ``why`` says it in words."""

    def __init__(self, gate: Gate, seat: Seat, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.ended: asyncio.Future[Bye | None] = loop.create_future()
        self.was_up = False
        self.why = "the connection ended"
        self._gate = gate
        self._seat = seat
        self._url = url
        self._loop = loop
        self._thread = threading.get_ident()
        self._reader = FrameReader(MOST_FRAME_BYTES)
        self._transport: asyncio.Transport | None = None
        self._out: deque[bytes] = deque()
        self._is_flushing = False
        self._timer: asyncio.Handle | None = None
        self._due_at = 0.0
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce oneself."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not of its class
        self._gate.with_core(lambda _, now: self._seat.connected(self._url, self._send, now))
        self._set_timer()

    def data_received(self, data: bytes) -> None:
        """Hand on what the broker says."""
        try:
            said = self._gate.with_core(functools.partial(self._take, data))
        except BadFrame as error:
            self._finish(None, f"it is not understood: {error}")
            return
        except Exception as error:  # noqa: BLE001 - a fault of ours, which must not become the requests'
            _log.exception("what the broker at %s said could not be taken", _plain(self._url))
            self._finish(None, f"it could not be taken: {error!r}")
            return
        self.was_up = self.was_up or self._seat.is_up
        if said is not None:
            self._finish(said, f"it said {said.reason}: {said.message}")
        else:
            self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Go on without it, at once."""
        try:
            self._lose()
        finally:
            self._finish(None, str(exc or "") or "the connection ended")

    def abandon(self) -> None:
        """End the connection, and go on without it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._lose()
            with contextlib.suppress(RuntimeError):  # the loop has ended, and its connections with it
                self._transport.abort()

    def _lose(self) -> None:
        """Go on without it, once: its seat may be on another connection before the last is heard of this one."""
        if not self._is_lost:
            self._is_lost = True
            self._gate.with_core(lambda _, now: self._seat.lost(now))

    def _take(self, data: bytes, _: object, now: float) -> Bye | None:
        for message in self._reader.feed(data):
            said = self._seat.take(message, now)
            if said is not None:
                return said
        return None

    def _finish(self, said: Bye | None, why: str) -> None:
        if not self.ended.done():
            self.why = why
            self.ended.set_result(said)

    # Sending, from any thread.

    def _send(self, message: Message) -> None:
        self._out.append(frame(message))
        if self._is_flushing:
            return
        self._is_flushing = True
        with contextlib.suppress(RuntimeError):  # the loop has ended, and its connections with it
            if threading.get_ident() == self._thread:
                self._loop.call_soon(self._flush)
            else:
                self._loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        pieces = []
        while self._out:
            pieces.append(self._out.popleft())
        if pieces and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))

    # The timer.

    def _set_timer(self) -> None:
        when = self._seat.next_tick
        if self._timer is not None:
            if self._due_at <= when:
                return  # it looks again then
            self._timer.cancel()
        self._due_at = when
        ahead = when - self._gate.monotonic()
        self._timer = self._loop.call_at(self._loop.time() + max(0.0, min(ahead, 3600.0)), self._tick)

    def _tick(self) -> None:
        self._timer = None
        was_lost = self._seat.state is State.DOWN
        if self._gate.with_core(lambda _, now: self._seat.tick(now)):
            self.was_up = self.was_up or self._seat.is_up
            self._set_timer()
        else:
            self._lose()
            silent = f"nothing was heard of it for {HEARTBEAT_SECONDS:g} s"
            self._finish(None, "this event loop was held up for too long" if was_lost else silent)


async def _open(url: str, connection: _Connection, ca_pem: str | None) -> None:
    loop, at = asyncio.get_running_loop(), read_address(url, "broker")
    if at.scheme == "unix":
        await loop.create_unix_connection(lambda: connection, at.path)
    elif at.scheme == "tcp":
        await loop.create_connection(lambda: connection, at.host, at.port)
    else:
        tls = _context(ca_pem)
        await loop.create_connection(
            lambda: connection,
            at.host,
            at.port,
            ssl=tls,
            server_hostname=at.host,
            ssl_handshake_timeout=CONNECT_SECONDS,
        )


async def open_streams(url: str, ca_pem: str | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a broker for a question or two. Raises ``OSError``."""
    at = read_address(url, "broker")
    if at.scheme == "unix":
        return await asyncio.open_unix_connection(at.path)
    if at.scheme == "tcp":
        return await asyncio.open_connection(at.host, at.port)
    return await asyncio.open_connection(at.host, at.port, ssl=_context(ca_pem), server_hostname=at.host)


@functools.lru_cache(maxsize=8)
def _context(ca_pem: str | None) -> ssl.SSLContext:
    """Trust the set's own authority, and the system's as usual."""
    context = ssl.create_default_context()
    if ca_pem is not None:
        context.load_verify_locations(cadata=ca_pem)
    return context


def _plain(text: str) -> str:
    """Return what a log can hold of a text: brokers, and whoever publishes, may say anything."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def words(error: BaseException) -> str:
    """Say why a broker cannot be reached."""
    if isinstance(error, TimeoutError):
        return "it takes too long"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS with it fails ({(error.reason or str(error)).replace('_', ' ').lower()})"
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)  # asyncio's own words repeat the address
    return getattr(error, "strerror", None) or str(error)
