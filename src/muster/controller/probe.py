"""Ask a container whether it is ready: a TCP connect, or an HTTP GET.

It talks to the backend address itself, never to an ingress or a published port: those accept with nobody behind. The
HTTP client here is a few lines because a probe wants the status line only, of a server that may be broken in any way.
"""

import asyncio
import contextlib
from enum import StrEnum
from typing import Protocol

from muster.model.container import Address
from muster.model.deployment import HealthCheck

_STATUS_LINE_BYTES = 4096


class Verdict(StrEnum):
    """How a probe ended. Who is ``SLOW`` may be busy; who ``FAILED`` said no, or is not there."""

    PASSED = "passed"
    SLOW = "slow"
    FAILED = "failed"


class Prober(Protocol):
    """Asks one address, once."""

    async def probe(self, address: Address, check: HealthCheck) -> Verdict:
        """Tell how the check ended within its timeout; never raises for anything that the address does."""
        ...


class NetworkProber:
    """Probes over the network."""

    async def probe(self, address: Address, check: HealthCheck) -> Verdict:
        """Tell how the check ended within its timeout."""
        try:
            async with asyncio.timeout(check.timeout_seconds):
                reader, writer = await asyncio.open_connection(address.host, address.port)
                try:
                    if check.path is None or await _get(reader, writer, address, check.path):
                        return Verdict.PASSED
                    return Verdict.FAILED
                finally:
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()
        except TimeoutError:
            return Verdict.SLOW
        except (OSError, ValueError):  # ValueError: a status line longer than the reader's limit
            return Verdict.FAILED


async def _get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: Address, path: str) -> bool:
    host = f"{address.host}:{address.port}"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nUser-Agent: muster\r\n\r\n".encode())
    await writer.drain()
    words = (await reader.readline())[:_STATUS_LINE_BYTES].split()
    return len(words) >= 2 and words[0].startswith(b"HTTP/") and words[1].isdigit() and 200 <= int(words[1]) < 400
