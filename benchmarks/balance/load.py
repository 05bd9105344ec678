"""Clients of a proxy: HTTP/1.1 over kept connections, as little as it takes. See ``client.py`` for its input.

python -m benchmarks.balance.load
"""

import asyncio
from collections.abc import Iterable

from benchmarks.balance.client import Ask, play, read_plan
from benchmarks.balance.figures import Verdict
from benchmarks.balance.replica import HOST

_REFUSALS = (503, 429)


class Pool:
    """Connections to one port; as many as there are requests at once, the last used first."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, path: str) -> tuple[int, bytes]:
        """Send a request; return status and body. Raises ``OSError`` or ``EOFError`` where no whole answer came."""
        reader, writer = await self._connected()
        is_reusable = False
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(_length(head.split(b"\r\n")))
            is_reusable = b"connection: close" not in head
        finally:
            if is_reusable:
                self._idle.append((reader, writer))
            else:
                writer.close()
        return int(head.split(b" ", 2)[1]), body

    def close(self) -> None:
        """Close what is idle."""
        for _, writer in self._idle:
            writer.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(HOST, self._port)


def _length(lines: Iterable[bytes]) -> int:
    return int(next(line.partition(b":")[2] for line in lines if line.startswith(b"content-length:")))


async def main() -> None:
    """Play the plan."""
    plan = read_plan()
    pool = Pool(int(plan.target))

    async def send(ask: Ask) -> tuple[Verdict, str]:
        try:
            status, _ = await pool.get(ask.path)
        except (OSError, EOFError) as error:
            return Verdict.FAILED, repr(error)
        if status == 200:
            return Verdict.ANSWERED, ""
        return (Verdict.REFUSED if status in _REFUSALS else Verdict.FAILED), str(status)

    await play(plan, send)
    pool.close()


if __name__ == "__main__":
    asyncio.run(main())
