"""Clients with the SDK, which know nothing of each other. See ``client.py`` for the input.

Each asks as a user's program would: an ``httpx.AsyncClient`` over the service's transport, with the options of each
request in ``extensions["muster"]``. All settings are the defaults. There is one for each ``client`` of the plan, with a
``muster.Connection`` of its own, so that those of one process share its event loop and nothing else.

With a token they ask the broker that the set names, are ready when they do, and tell when they had to do without.

    python -m benchmarks.balance.sdk_load
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx

import muster
from benchmarks.balance.client import Ask, Plan, play, read_plan
from benchmarks.balance.figures import Verdict
from benchmarks.balance.fleet import VRAM
from benchmarks.balance.replica import HOST
from benchmarks.balance.trace import FEATURE
from muster.errors import BalancerError
from muster.sdk import Service

SERVICE = "bench"
BROKER_SECONDS = 15.0
"""One that has just started grants a second later, when those who hold leases have told."""


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


class Absences:
    """When clients had no broker, seen ``look_seconds`` late at most; ``run`` it as a task."""

    def __init__(self, services: Mapping[int, Service], look_seconds: float) -> None:
        self._services = services
        self._look_seconds = look_seconds
        self._since: dict[int, float] = {}
        self._over: list[tuple[int, float, float]] = []

    async def run(self) -> None:
        """Look, again and again."""
        while True:
            now = time.monotonic()
            for client, service in self._services.items():
                if not service.statistics().broker:
                    self._since.setdefault(client, now)
                elif client in self._since:
                    self._over.append((client, self._since.pop(client), now))
            await asyncio.sleep(self._look_seconds)

    def all(self) -> list[tuple[int, float, float]]:
        """Return whose, from when, until when."""
        now = time.monotonic()
        return self._over + [(client, since, now) for client, since in self._since.items()]


@contextlib.asynccontextmanager
async def client_of(plan: Plan) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """Have one client, which is ready."""
    async with muster.connect(plan.target, token=plan.token) as connection:
        service = connection.service(SERVICE)
        async with httpx.AsyncClient(
            transport=service.async_transport(), base_url=f"http://{SERVICE}", timeout=plan.patience
        ) as client:
            await service.wait_ready()
            async with asyncio.timeout(BROKER_SECONDS):
                while plan.token and not service.statistics().broker:  # noqa: ASYNC110 before anything is measured
                    await asyncio.sleep(plan.look_seconds / 10)
            yield service, client


async def main() -> None:
    """Play the plan."""
    plan = read_plan()
    await warm_up()
    async with contextlib.AsyncExitStack() as stack:
        both = {
            number: await stack.enter_async_context(client_of(plan))
            for number in sorted({ask.client for ask in plan.asks})
        }

        async def send(ask: Ask) -> tuple[Verdict, str]:
            _, client = both[ask.client]
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

        services = {number: service for number, (service, _) in both.items()} if plan.token else {}
        absences = Absences(services, plan.look_seconds)
        looking = asyncio.create_task(absences.run())
        await play(plan, send, lambda: {"absences": absences.all()})
        looking.cancel()


if __name__ == "__main__":
    asyncio.run(main())
