"""What the engines' ``ExecSession`` of plain descriptors have in common: input, output, a terminal, a connection.

A session is made of descriptors and an ``Ending``, which knows how what is at their other ends comes to its end.
Output is read when it is asked for, one chunk of each stream ahead.
"""

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from muster.engine.descriptor import Descriptor

_END_OF_TRANSMISSION = b"\x04"


class Ending(Protocol):
    """How what a session talks to ends."""

    async def wait(self) -> int:
        """Return its exit code, once it has ended."""
        ...

    async def let_go(self) -> None:
        """Have it end, if it has not; its descriptors are closed."""
        ...


class StreamSession:
    """A session over pipes; see ``muster.engine.port.ExecSession``. ``told`` maps channels to where they are read."""

    def __init__(self, given: Descriptor, told: Mapping[int, Descriptor], ending: Ending) -> None:
        self._given = given
        self._told = told
        self._ending = ending

    async def write(self, data: bytes) -> None:
        """Give it input; what it no longer reads is dropped."""
        await self._given.write(data)

    async def write_eof(self) -> None:
        """End its input; output goes on."""
        await asyncio.sleep(0)
        self._given.close()

    async def resize(self, columns: int, rows: int) -> None:
        """Change nothing: it has no terminal."""
        del columns, rows
        await asyncio.sleep(0)

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield chunks of output until its end."""
        reading = {asyncio.ensure_future(each.read()): channel for channel, each in self._told.items()}
        try:
            while reading:
                done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=reading.__getitem__):
                    channel = reading.pop(task)
                    if chunk := task.result():
                        yield channel, chunk
                        reading[asyncio.ensure_future(self._told[channel].read())] = channel
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

    async def exit_code(self) -> int:
        """Return how it ended, once ``output`` is through."""
        return await self._ending.wait()

    async def aclose(self) -> None:
        """Let go of it."""
        for each in (self._given, *self._told.values()):
            each.close()
        await self._ending.let_go()


class TerminalSession(StreamSession):
    """A session over the upper end of a terminal."""

    def __init__(self, terminal: Descriptor, ending: Ending) -> None:
        super().__init__(terminal, {1: terminal}, ending)

    async def write_eof(self) -> None:
        """End its input by Ctrl-D, which programs see at the beginning of a line."""
        await self.write(_END_OF_TRANSMISSION)

    async def resize(self, columns: int, rows: int) -> None:
        """Change the size of its terminal; changes nothing once it has ended."""
        await asyncio.sleep(0)
        if self._given.number >= 0:
            set_size(self._given.number, columns, rows)


class SocketSession(StreamSession):
    """A session over one connected socket."""

    def __init__(self, connected: socket.socket, ending: Ending) -> None:
        connection = Descriptor(connected.detach())
        super().__init__(connection, {1: connection}, ending)

    async def write_eof(self) -> None:
        """Shut one direction of the connection; the other one goes on."""
        await asyncio.sleep(0)
        if self._given.number >= 0:
            with socket.socket(fileno=self._given.number) as borrowed:
                try:
                    borrowed.shutdown(socket.SHUT_WR)
                except OSError:
                    return
                finally:
                    borrowed.detach()


class Connection:
    """The ending of a connection: there is no more to it than that of its bytes."""

    async def wait(self) -> int:
        """Return 0."""
        await asyncio.sleep(0)
        return 0

    async def let_go(self) -> None:
        """Do nothing."""
        await asyncio.sleep(0)


def set_size(terminal: int, columns: int, rows: int) -> None:
    """Tell a terminal its size; the programs at it hear of that by SIGWINCH."""
    bounded = [min(max(each, 0), 0xFFFF) for each in (rows, columns)]
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", *bounded, 0, 0))
