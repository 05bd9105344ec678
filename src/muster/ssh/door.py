"""One container's listener as those behind it see it: the route as it is now, and who is inside.

A ``Door`` belongs to one container for as long as its address does; the gateway gives it each new route, connections
read it. When the container has ended, what is open may come to its own end, and who has nothing open is shown out.
``Premises`` is what all doors share: engine, clock, counts, and the tasks of sessions, which outlive their callbacks.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from muster.clock import Clock
from muster.engine.port import Capabilities, ExecSession
from muster.model.routes import Route, RouteState
from muster.model.run import ExecOrder, Ref
from muster.ssh.throttle import FailedLogins

MAX_CONNECTIONS = 100
"""Of one container at once: a dozen editors with a connection for each of their windows."""
MAX_STRANGERS = 20
"""Of one address at one container, not yet logged in: what a script starts at once, and not what fills the memory."""
MAX_STRANGERS_EVERYWHERE = 1000
"""At all containers together: each has a descriptor, which their other addresses need too."""

_log = logging.getLogger(__name__)


class ContainerAccess(Protocol):
    """What the gateway asks of an engine. An engine is one."""

    @property
    def capabilities(self) -> Capabilities:
        """What can be asked."""
        ...

    async def execute(self, ref: Ref, order: ExecOrder) -> ExecSession:
        """Run a command in a running container."""
        ...

    async def sftp(self, ref: Ref) -> ExecSession:
        """Open the files of a running container."""
        ...

    async def dial(self, ref: Ref, host: str, port: int) -> ExecSession:
        """Connect to what listens in a running container."""
        ...


class Guest(Protocol):
    """A connection, as its door knows it."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open in it, and it has logged in."""
        ...

    def show_out(self, why: str) -> None:
        """End it."""
        ...


@dataclass(slots=True)
class Premises:
    """What all doors share. ``sessions`` are shells, commands and file transfers that are open, ``guests`` clients.

    ``strangers`` are those of them that have not logged in.
    """

    engine: ContainerAccess
    clock: Clock
    failed: FailedLogins = field(default_factory=FailedLogins)
    sessions: int = 0
    strangers: int = 0
    guests: set[Guest] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run the work of a session; it is waited for when the gateway closes."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed (this is a bug)", task.get_name(), exc_info=error)


class Door:
    """See the module's text."""

    def __init__(self, premises: Premises, route: Route) -> None:
        self.premises = premises
        self.route = route
        self.guests: set[Guest] = set()
        self._strangers: Counter[str] = Counter()

    @property
    def ref(self) -> Ref:
        """Return how the engine knows the container."""
        return Ref(self.route.machine_id, self.route.container_id, self.route.generation)

    @property
    def why_closed(self) -> str:
        """Say why nobody gets in; empty while they do."""
        route = self.route
        if route.state is RouteState.ENDED:
            return route.message or f"container {route.container_uuid} has ended"
        if not route.is_running:
            return f"container {route.container_uuid} does not run yet: try again in a moment"
        return ""

    def change(self, route: Route) -> None:
        """Take a newer route of the same container; whoever has nothing open in an ended one is shown out."""
        self.route = route
        for guest in list(self.guests):
            self.settle(guest)

    def settle(self, guest: Guest) -> None:
        """Show out a guest for whom there is nothing left to do here."""
        if self.route.state is RouteState.ENDED and guest.is_idle:
            guest.show_out(self.why_closed)

    def enter(self, guest: Guest) -> None:
        """Count a connection in."""
        self.guests.add(guest)
        self.premises.guests.add(guest)

    def leave(self, guest: Guest) -> None:
        """Count it out."""
        self.guests.discard(guest)
        self.premises.guests.discard(guest)

    def arrive(self, address: str) -> bool:
        """Let somebody knock; ``False``: too many from there, or everywhere, are knocking already."""
        if self._strangers[address] >= MAX_STRANGERS or self.premises.strangers >= MAX_STRANGERS_EVERYWHERE:
            return False
        self._strangers[address] += 1
        self.premises.strangers += 1
        return True

    def known(self, address: str) -> None:
        """Count somebody who knocked no longer: they logged in, or went away."""
        self.premises.strangers -= 1
        self._strangers[address] -= 1
        if self._strangers[address] <= 0:
            del self._strangers[address]
