"""Between a channel of asyncssh and a session of the engine: bytes of one side go to the other, at the slower's pace.

asyncssh calls back, the engine is awaited, so ``Relay`` is both: callbacks leave input in a small buffer and stop the
channel when it is full, and two coroutines do the waiting. ``feed`` gives input to the session as fast as that takes
it; ``tell`` writes its output whenever the channel has room. Neither direction holds more than its window.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from asyncssh import EXTENDED_DATA_STDERR

from muster.engine.port import ExecSession

OnEnd = Callable[[], None]
_FULL_BYTES = 1 << 18


class Channel(Protocol):
    """What is used of asyncssh's channels."""

    def write(self, data: bytes, datatype: int | None = None) -> None:
        """Send, or keep until there is room."""
        ...

    def pause_reading(self) -> None:
        """Call ``data_received`` no more."""
        ...

    def resume_reading(self) -> None:
        """Call it again."""
        ...


class Relay:
    """The callbacks that channels of every kind have in common, and what waits behind them."""

    def __init__(self, on_end: OnEnd) -> None:
        """``on_end`` is called once, when the channel is gone."""
        self._on_end = on_end
        self._channel: Channel | None = None
        self._inbox = bytearray()
        self._is_input_over = False
        self._has_input = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    # What asyncssh calls.

    def data_received(self, data: bytes, datatype: int | None) -> None:  # noqa: ARG002  clients send one kind only
        """Take input."""
        self._inbox += data
        self._has_input.set()
        if len(self._inbox) >= _FULL_BYTES and self._channel is not None:
            self._channel.pause_reading()

    def eof_received(self) -> bool:
        """Take the end of input; ``True``: output goes on."""
        self._is_input_over = True
        self._has_input.set()
        return True

    def pause_writing(self) -> None:
        """Keep output back."""
        self._has_room.clear()

    def resume_writing(self) -> None:
        """Send it again."""
        self._has_room.set()

    def ended(self) -> None:
        """Tell that the channel is gone; nothing is written any more."""
        self._has_room.set()
        self._on_end()

    # What waits.

    async def feed(self, session: ExecSession) -> None:
        """Give all input to the session, and then its end."""
        assert self._channel is not None
        while True:
            await self._has_input.wait()
            self._has_input.clear()
            while self._inbox:
                chunk, self._inbox = bytes(self._inbox), bytearray()
                if len(chunk) >= _FULL_BYTES:
                    self._channel.resume_reading()
                await session.write(chunk)
            if self._is_input_over:
                await session.write_eof()
                return

    async def tell(self, session: ExecSession) -> None:
        """Send all output of the session."""
        assert self._channel is not None
        async for stream, chunk in session.output():
            await self._has_room.wait()
            self._channel.write(chunk, EXTENDED_DATA_STDERR if stream == 2 else None)
