"""Commands beside a container's own, in memory: an ``ExecSession`` for tests of whoever stands before an engine.

``Commands`` is the part of an engine that runs them; a command is one of ``PROGRAMS`` by its first word, and a test may
add its own. Nothing is buffered beyond one chunk each way, so that who does not read holds up who writes, as a real
engine does. ``sessions`` remembers what was run, for a test to look at.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from muster.errors import EngineUnavailable
from muster.model.run import ExecOrder, Ref

Program = Callable[["MemorySession"], Awaitable[int]]


class MemorySession:
    """One command that is a coroutine; see ``muster.engine.port.ExecSession``."""

    def __init__(self, ref: Ref, order: ExecOrder, program: Program) -> None:
        self.ref = ref
        self.order = order
        self.size = order.size
        self.is_hung_up = False
        """Whether it was let go of before its end."""
        self.received_bytes = 0
        self.written_bytes = 0
        self.resized = asyncio.Event()
        self._input: asyncio.Queue[bytes] = asyncio.Queue(1)
        self._output: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(1)
        self._task = asyncio.ensure_future(program(self))

    # What the command does.

    async def read(self) -> bytes:
        """Return the next piece of its input, empty at the end."""
        chunk = await self._input.get()
        self.received_bytes += len(chunk)
        return chunk

    async def say(self, data: bytes, stream: int = 1) -> None:
        """Write to its output."""
        await self._output.put((stream, data))
        self.written_bytes += len(data)

    # What its caller does.

    async def write(self, data: bytes) -> None:
        """Give it input; what it no longer reads is dropped."""
        giving = asyncio.ensure_future(self._input.put(data))
        try:
            await asyncio.wait({giving, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            giving.cancel()

    async def write_eof(self) -> None:
        """End its input."""
        await self.write(b"")

    async def resize(self, columns: int, rows: int) -> None:
        """Change the size of its terminal."""
        self.size = (columns, rows)
        self.resized.set()

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield what it writes, until its end."""
        while not (self._task.done() and self._output.empty()):
            taking = asyncio.ensure_future(self._output.get())
            try:
                await asyncio.wait({taking, self._task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                taking.cancel()
            if taking.done():
                yield taking.result()

    async def exit_code(self) -> int:
        """Return how it ended."""
        return await self._task

    async def aclose(self) -> None:
        """Hang up on it if it still runs."""
        self.is_hung_up = not self._task.done()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, EngineUnavailable):
            await self._task


async def _cat(session: MemorySession) -> int:
    while chunk := await session.read():
        await session.say(chunk)
    return 0


async def _fail(session: MemorySession) -> int:
    """Take ``fail CODE``: a line on each stream, and a code."""
    await session.say(b"out\n", 1)
    await session.say(b"err\n", 2)
    return int(session.order.command[1])


async def _yes(session: MemorySession) -> int:
    """Write for ever."""
    while True:
        await session.say(b"y\n" * 2048)


async def _deaf(session: MemorySession) -> int:
    """Read nothing, but answer to new sizes; ``deaf COUNT`` ends after so many."""
    for _ in range(int(session.order.command[1])):
        await session.resized.wait()
        session.resized.clear()
        await session.say(f"{session.size}\n".encode())
    return 0


async def _break(session: MemorySession) -> int:
    """Lose the engine."""
    await session.say(b"before\n")
    raise EngineUnavailable("the daemon went away")


async def _environment(session: MemorySession) -> int:
    """Say how it was called."""
    await session.say(repr((session.order.command, session.order.has_tty, session.size)).encode())
    return 0


PROGRAMS: dict[str, Program] = {
    "cat": _cat,
    "fail": _fail,
    "yes": _yes,
    "deaf": _deaf,
    "break": _break,
    "how": _environment,
}


class Commands:
    """Runs commands of ``programs``, any other is the one called ``how``."""

    def __init__(self) -> None:
        self.programs = dict(PROGRAMS)
        self.sessions: list[MemorySession] = []

    async def execute(self, ref: Ref, order: ExecOrder) -> MemorySession:
        """Start one."""
        program = self.programs.get(order.command[0], _environment)
        self.sessions.append(MemorySession(ref, order, program))
        return self.sessions[-1]
