"""One client's connection: bytes to messages for the desk, messages to bytes, and what ends it.

::

    greeting ─hello─▸ checked ─admitted─▸ seated ─┐
        └──────────────┴───────────────────────────┴─▸ leaving ─▸ gone

Its messages go to the desk as they arrive, and what a turn of the loop says to it is written at once: a client that
reports ten ends gets its ten grants in one write. Whatever it sends that is none of this protocol, or breaks something
here, ends this connection and no other. A client that does not read is cut off when a megabyte lies here for it.
"""

import asyncio
import contextlib
import enum
import logging
from collections.abc import Iterator
from typing import Protocol, cast

from muster.broker import messages
from muster.broker.frames import BadFrame, FrameReader, frame
from muster.broker.messages import Bye, Hello, Message
from muster.broker.served import Served

MOST_UNREAD_BYTES = 1024 * 1024
MOST_HELD_BYTES = 64 * 1024
"""What a client may send while it is being looked up who it is."""
LEAVE_SECONDS = 2.0
"""How long a last word may take to be sent."""
MOST_QUESTIONS = 16
"""What people may ask at once: an answer takes milliseconds where thousands wait, and everybody waits for it."""
_QUESTIONS = frozenset({"show", "evict"})

_log = logging.getLogger(__name__)


class Stage(enum.IntEnum):
    """How far a connection has come."""

    GREETING = enum.auto()
    CHECKED = enum.auto()
    SEATED = enum.auto()
    LEAVING = enum.auto()
    GONE = enum.auto()


class Host(Protocol):
    """Whoever listens."""

    def arrived(self, connection: "Connection") -> Bye | None:
        """Note a new connection, or say why it cannot stay."""
        ...

    def greeted(self, connection: "Connection", hello: Hello) -> None:
        """See who it is, and then ``seat`` or ``dismiss`` it."""
        ...

    def gone(self, connection: "Connection") -> None:
        """Forget it."""
        ...


class Connection(asyncio.Protocol):
    """A visitor of desks (``visit.Visitor``), and a protocol of the event loop."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self.stage = Stage.GREETING
        self.hello: Hello | None = None
        self.was_seated = False
        self.arrived_at = self.heard_at = loop.time()
        self._host = host
        self._loop = loop
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._served: Served | None = None
        self._held: list[Message] = []
        self._held_bytes = 0
        self._parts: list[bytes] = []

    def __repr__(self) -> str:
        who = "" if self.hello is None else f" {self.hello.client!r} for {str(self.hello.key)!r}"
        return f"<client{who}>"

    # ── the event loop's ─────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=MOST_UNREAD_BYTES)
        refusal = self._host.arrived(self)
        if refusal is not None:
            self.dismiss(refusal)

    def data_received(self, data: bytes) -> None:
        """Take what arrived."""
        self.heard_at = self._loop.time()
        if self.stage <= Stage.SEATED:
            with self._sent_away_if_it_fails():
                self._take(self._reader.feed(data), len(data))

    def pause_writing(self) -> None:
        """Cut off who does not read."""
        _log.info("%r does not read what it is told and is cut off", self)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why is not told apart
        """End."""
        self.stage = Stage.GONE
        self._parts.clear()
        self._leave()
        self._host.gone(self)

    # ── the host's ───────────────────────────────────────────────────────────────────────────────────────────────

    def seat(self, served: Served) -> None:
        """Let it in, if it is still there."""
        assert self.hello is not None
        self._served = served
        if self.stage is not Stage.CHECKED:
            self._leave()
            return
        self.stage, self.was_seated = Stage.SEATED, True
        self.heard_at = self._loop.time()  # what it said while it was looked up has only been held
        held, self._held = self._held, []
        with self._sent_away_if_it_fails():
            served.join(self, self.hello)
            self._take(held, 0)

    def dismiss(self, said: Bye) -> None:
        """Take leave, saying why."""
        if self.stage < Stage.LEAVING:
            self.send(messages.bye(said))
            self.close()
            self._leave()

    def abort(self) -> None:
        """End it now, without a word."""
        if self._transport is not None:
            self._transport.abort()

    # ── the desk's ───────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, message: Message) -> None:
        """Send a message with the others of this turn of the loop."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(frame(message))

    def close(self) -> None:
        """Take leave after what was sent."""
        if self.stage < Stage.LEAVING:
            self.stage = Stage.LEAVING
            self._held.clear()
            self._loop.call_soon(self._end)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def _sent_away_if_it_fails(self) -> Iterator[None]:
        try:
            yield
        except BadFrame as error:
            self.dismiss(Bye(error.reason, str(error)))
        except Exception:  # noqa: BLE001 - whatever it is, it is this client's alone
            _log.exception("%r is sent away", self)
            self.dismiss(Bye("failed", "the broker has failed over this message; its log says how"))

    def _take(self, found: list[Message], size: int) -> None:
        if self.stage is Stage.SEATED:
            self._serve(found)
            return
        if self.stage is Stage.GREETING and found:
            self.hello = messages.read_hello(found.pop(0))
            self.stage = Stage.CHECKED
            self._host.greeted(self, self.hello)
        self._held.extend(found)
        self._held_bytes += size
        if self._held_bytes > MOST_HELD_BYTES:
            raise BadFrame(f"more than {MOST_HELD_BYTES} bytes before the welcome", "too_large")

    def _serve(self, found: list[Message]) -> None:
        served = self._served
        assert served is not None
        assert self.hello is not None
        desk, inspects = served.desk, self.hello.purpose == "inspect"
        try:
            if inspects and len(found) > MOST_QUESTIONS:
                raise BadFrame(f"more than {MOST_QUESTIONS} questions at once: wait for an answer before the next")
            for message in found:
                kind = message["type"]
                if kind != "heartbeat" and (kind in _QUESTIONS) != inspects:
                    raise BadFrame(f"{kind[:60]!r} is not for who came to {self.hello.purpose}")
                desk.take(self, message)
                if self.stage is not Stage.SEATED:
                    return
        finally:
            served.rearm()

    def _leave(self) -> None:
        served, self._served = self._served, None
        if served is not None:
            try:
                served.leave(self)
            except Exception:  # noqa: BLE001 - the host has to hear of it
                _log.exception("what %r held could not be given back", self)

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(parts) if len(parts) > 1 else parts[0])

    def _end(self) -> None:
        self._flush()
        if self._transport is not None and self.stage is not Stage.GONE:
            self._transport.close()
            self._loop.call_later(LEAVE_SECONDS, self._transport.abort)
