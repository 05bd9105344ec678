"""A client of the protocol that does nothing by itself: it sends the frames that a test gives it, and reads frames."""

import asyncio
import contextlib
import itertools
import ssl
from types import TracebackType
from typing import Any, Self

from muster.balancer.ask import NOTHING_SAID, Ask
from muster.balancer.lease import Outcome
from muster.broker import messages
from muster.broker.address import Address
from muster.broker.frames import FrameReader, frame
from muster.broker.messages import Hello, Message, Wanted
from muster.model.endpoint import ServiceKey

PATIENCE_SECONDS = 5.0
MOST_BYTES = 4 * 1024 * 1024


class Client:
    """One connection; made by ``connect``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self._frames = FrameReader(MOST_BYTES)
        self._found: list[Message] = []
        self._numbers = itertools.count(1)

    @classmethod
    async def connect(cls, address: Address, tls: ssl.SSLContext | None = None) -> Self:
        """Connect and say nothing."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            if address.scheme == "unix":
                return cls(*await asyncio.open_unix_connection(address.path))
            return cls(*await asyncio.open_connection(address.host, address.port, ssl=tls))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def say(self, *said: Message) -> None:
        """Send messages in one write."""
        self.writer.write(b"".join(map(frame, said)))

    def say_bytes(self, data: bytes) -> None:
        """Send what need not be a message."""
        self.writer.write(data)

    async def next(self) -> Message | None:
        """Return the next message, ``None`` at the end."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self._found:
                try:
                    data = await self._reader.read(65536)
                except ConnectionError:
                    return None
                if not data:
                    return None
                self._found.extend(self._frames.feed(data))
        return self._found.pop(0)

    async def get(self, kind: str) -> Message:
        """Return the next message, which has to be of that type."""
        found = await self.next()
        assert found is not None, f"the broker hung up instead of saying {kind}"
        assert found["type"] == kind, f"{found} is no {kind}"
        return found

    async def find(self, kind: str) -> Message:
        """Return the next message of that type; others before it are passed over."""
        while (found := await self.next()) is not None:
            if found["type"] == kind:
                return found
        raise AssertionError(f"the broker hung up instead of saying {kind}")

    async def farewell(self) -> str:
        """Return the reason of the bye, after which the broker hangs up; empty if it hung up without a word."""
        reason = ""
        while (found := await self.next()) is not None:
            assert not reason, f"{found} after the last message"
            if found["type"] == "bye":
                reason = str(found["reason"])
        return reason

    async def hello(self, key: ServiceKey, token: str, client: str = "test", purpose: str = "balance") -> Message:
        """Introduce oneself; returns the answer, a welcome or a bye."""
        self.say(messages.hello(Hello(key, token, client, purpose)))
        found = await self.next()
        assert found is not None, "the broker hung up instead of answering"
        return found

    def ask(self, *, within: float = 5.0, ask: Ask = NOTHING_SAID) -> int:
        """Ask for a slot; returns the ask's number."""
        number = next(self._numbers)
        self.say(messages.ask(Wanted(number, ask, within), 0.0))
        return number

    async def lease(self, **options: Any) -> int:
        """Ask, be granted, and start; returns the ask's number."""
        number = self.ask(**options)
        granted = await self.find("grant")
        assert granted["id"] == number
        self.say(messages.start(number))
        return number

    def report(self, number: int, outcome: Outcome = Outcome.OK) -> None:
        """End a lease."""
        self.say(messages.report(number, outcome))

    def beat(self, *held: int) -> None:
        """Say that one lives."""
        self.say(messages.beat(held))

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()

    def abort(self) -> None:
        """Be gone without a word."""
        self.writer.transport.abort()
