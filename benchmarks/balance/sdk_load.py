"""Clients with the SDK: one process is one client, which knows nothing of the others. See ``client.py`` for its input.

It asks as a user's program would: an ``httpx.AsyncClient`` over the service's transport, with the options of each
request in ``extensions["muster"]``. All settings are the defaults.

    python -m benchmarks.balance.sdk_load
"""

import asyncio
from typing import Any

import httpx

import muster
from benchmarks.balance.client import Ask, Plan, play, read_plan
from benchmarks.balance.figures import Verdict
from benchmarks.balance.fleet import VRAM
from benchmarks.balance.replica import HOST
from benchmarks.balance.trace import FEATURE
from muster.errors import BalancerError

SERVICE = "bench"


def options(plan: Plan, ask: Ask) -> dict[str, Any]:
    """Return what a request says to the balancer; never how much work it is."""
    told: dict[str, Any] = {"timeout": plan.patience}
    if ask.feature is not None:
        told["features"] = {FEATURE: ask.feature}
    if ask.memory_mb is not None:
        told["demands"] = {VRAM: ask.memory_mb}
    if plan.deadline is not None:
        told["deadline"] = plan.deadline
    return told


async def warm_up() -> None:
    """Send a request past the SDK: httpx imports at its first one, which would hold up the trace's first requests."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, HOST, 0) as server, httpx.AsyncClient(trust_env=False) as client:
        await client.get(f"http://{HOST}:{server.sockets[0].getsockname()[1]}")


async def main() -> None:
    """Play the plan."""
    plan = read_plan()
    await warm_up()
    async with muster.connect(plan.target) as connection:
        service = connection.service(SERVICE)
        async with httpx.AsyncClient(
            transport=service.async_transport(), base_url=f"http://{SERVICE}", timeout=plan.patience
        ) as client:
            await service.wait_ready()

            async def send(ask: Ask) -> tuple[Verdict, str]:
                try:
                    response = await client.get(ask.path, extensions={"muster": options(plan, ask)})
                except BalancerError as error:
                    return Verdict.REFUSED, type(error).__name__
                except httpx.HTTPError as error:
                    return Verdict.FAILED, repr(error)
                if response.is_success:
                    return Verdict.ANSWERED, ""
                is_refusal = response.status_code == httpx.codes.SERVICE_UNAVAILABLE
                return (Verdict.REFUSED if is_refusal else Verdict.FAILED), str(response.status_code)

            await play(plan, send)


if __name__ == "__main__":
    asyncio.run(main())
