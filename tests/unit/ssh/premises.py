"""A gateway with containers in memory, and a client of another library's making in the same loop.

``Memory`` runs coroutines where an engine runs commands: the last word of a login's little program is the command, and
its first word names the program. SFTP and forwarded connections are such programs too: they say back what they hear.
"""

import asyncio
import contextlib
import datetime
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh

from muster.engine.port import Capabilities
from muster.errors import EngineRejected
from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId, MachineId
from muster.model.password import hash_password
from muster.model.routes import Route, RouteState, RouteTable, SshRoute
from muster.model.run import ExecOrder, Ref
from muster.ssh.gateway import SshGateway
from muster.testing.exec_session import Commands, MemorySession

PASSWORD = "correct-horse-battery"
DEADLINE_SECONDS = 10.0
ABLE = Capabilities(shares_host_ports=False, isolates_tenants=True, has_exec=True, has_sftp=True, can_dial=True)
Scenario = Callable[["House"], Awaitable[None]]


class Memory(Commands):
    """An engine whose commands are coroutines; ``dialled`` remembers where to."""

    def __init__(self, capabilities: Capabilities = ABLE) -> None:
        super().__init__()
        self.capabilities = capabilities
        self.dialled: list[tuple[str, int]] = []
        self.refusal: Exception | None = None

    async def execute(self, ref: Ref, order: ExecOrder) -> MemorySession:
        """Run what a login wants; a shell is the program ``shell``, if a test has one."""
        if self.refusal is not None:
            raise self.refusal
        command = ["shell"] if order.command[-1] == "--" else order.command[-1].split()
        session = MemorySession(ref, replace(order, command=tuple(command)), self.programs[command[0]])
        self.sessions.append(session)
        return session

    async def sftp(self, ref: Ref) -> MemorySession:
        """Open something that says back what it hears."""
        return await self.execute(ref, ExecOrder(("cat",)))

    async def dial(self, ref: Ref, host: str, port: int) -> MemorySession:
        """Connect to something that says back what it hears; nobody listens on port 1."""
        self.dialled.append((host, port))
        if port == 1:
            raise EngineRejected("error", "nothing answers at port 1")
        return await self.execute(ref, ExecOrder(("cat",)))


class Patient:
    """A clock that is moved by whoever waits for it; ``waits`` remembers for how long they did."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._seconds = 0.0

    def now(self) -> datetime.datetime:
        return datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC)

    def monotonic(self) -> float:
        return self._seconds

    async def sleep(self, seconds: float) -> None:
        self.waits.append(round(seconds, 3))
        self._seconds += seconds
        await asyncio.sleep(0)


class House:
    """A gateway, its engine and clock, and one container with a login."""

    def __init__(self, folder: Path, engine: Memory) -> None:
        self.engine = engine
        self.clock = Patient()
        self.gateway = SshGateway(engine, home=folder, host="127.0.0.1", clock=self.clock)
        self.port = free_port()
        self.route = route("c-1", self.port)
        self._revision = 0

    async def show(self, *routes: Route) -> Any:
        """Put routes in force; without any, the one of the house."""
        self._revision += 1
        return await self.gateway.apply(RouteTable(1, self._revision, routes or (self.route,)))

    async def clear(self) -> Any:
        """Put an empty table in force."""
        self._revision += 1
        return await self.gateway.apply(RouteTable(1, self._revision))

    def connect(self, *, user: str = "root", password: str | None = PASSWORD, **options: Any) -> Any:
        """Connect as a client does."""
        return asyncssh.connect(
            "127.0.0.1",
            options.pop("port", self.port),
            known_hosts=None,
            username=user,
            password=password,
            client_keys=options.pop("client_keys", None),
            config=None,
            agent_path=None,
            **options,
        )

    async def until(self, claim: Callable[[], bool]) -> None:
        """Wait for a level."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not claim():  # noqa: ASYNC110  a test waits for levels
                await asyncio.sleep(0.005)


def route(name: str, port: int, *keys: str, **changes: Any) -> Route:
    """Return the route of a running container."""
    made = Route(
        container_uuid=ContainerUuid(name),
        container_id=ContainerId(f"id-{name}"),
        machine_id=MachineId("m-1"),
        generation=1,
        account_id=AccountId(1),
        deployment_id=DeploymentId("d-1"),
        state=RouteState.ACCEPT,
        ports=(),
        ssh=SshRoute(port, hash_password(PASSWORD, "salt"), keys),
        is_running=True,
    )
    return replace(made, **changes)


def free_port() -> int:
    """Return a port of loopback on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def at_home(folder: Path, scenario: Scenario, *, capabilities: Capabilities = ABLE) -> House:
    """Run a scenario with an open house; afterwards nothing is left of it. Returns the house."""

    async def live() -> House:
        async with opened(folder, Memory(capabilities)) as house:
            await house.show()
            await scenario(house)
        return house

    return asyncio.run(asyncio.wait_for(live(), 30))


@contextlib.asynccontextmanager
async def opened(folder: Path, engine: Memory) -> AsyncIterator[House]:
    """Open a house, and close it."""
    house = House(folder, engine)
    try:
        yield house
    finally:
        await house.gateway.aclose()
        await house.until(lambda: house.gateway.connections == 0)
    assert house.gateway.sessions == 0
    assert all(session._task.done() for session in engine.sessions)
    left = [task for task in asyncio.all_tasks() if task.get_name().startswith("ssh ")]
    assert not left
