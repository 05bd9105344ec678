"""A descriptor (pipe, terminal, socket) that is read and written on an event loop, with no buffer of its own.

What is not asked for is not read, so whoever writes to the other end is held up: that is all the flow control that a
session needs. Works the same on asyncio's own loop and on uvloop, for terminals too, of which the end is an error.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any

CHUNK_BYTES = 1 << 16
_CLOSED = -1


class Descriptor:
    """Owns one descriptor; at most one task reads it at a time, and one writes."""

    def __init__(self, number: int) -> None:
        os.set_blocking(number, False)
        self._number = number
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def number(self) -> int:
        """The kernel's number; negative once it is closed."""
        return self._number

    async def read(self, count: int = CHUNK_BYTES) -> bytes:
        """Return what comes next, at most ``count`` bytes; nothing at its end, whatever that was."""
        while self._number != _CLOSED:
            try:
                return os.read(self._number, count)
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await self._until(loop.add_reader, loop.remove_reader)
            except OSError:
                return b""
        return b""

    async def write(self, data: bytes) -> None:
        """Write it all; what nobody reads any more is dropped."""
        rest = memoryview(data)
        while rest and self._number != _CLOSED:
            try:
                rest = rest[os.write(self._number, rest[:CHUNK_BYTES]) :]
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await self._until(loop.add_writer, loop.remove_writer)
            except OSError:
                return

    def close(self) -> None:
        """Close it; who waits for it goes on, and finds its end."""
        if self._number == _CLOSED:
            return
        number, self._number = self._number, _CLOSED
        loop = asyncio.get_running_loop()
        loop.remove_reader(number)
        loop.remove_writer(number)
        os.close(number)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _until(self, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
        number = self._number
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        add(number, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if self._number == number:
                remove(number)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
