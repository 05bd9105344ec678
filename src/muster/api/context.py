"""What a route may reach beyond its request: the arguments of ``create_app``, as one value."""

import datetime
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Request

from muster.api.signal import CommitSignal
from muster.clock import Clock
from muster.model.ids import ContainerId
from muster.model.run import Ref
from muster.registry.port import Registry
from muster.scheduler.explain import Explanation
from muster.store.port import Store


class LogSource(Protocol):
    """Where output is read from; an engine is one."""

    def logs(self, ref: Ref, *, tail: int | None = None, follow: bool = False) -> AsyncIterator[bytes]:
        """Yield output in order, the newest ``tail`` lines of it; ``follow`` goes on until the run has ended."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """The world of the API. ``explain`` says why a container has no machine, ``None`` if it was not yet looked at."""

    store: Store
    clock: Clock
    zone: datetime.tzinfo
    registry: Registry
    log_source: LogSource
    explain: Callable[[ContainerId], Explanation | None]
    is_ready: Callable[[], bool]
    isolates_tenants: bool
    commits: CommitSignal
    random_hex: Callable[[int], str]


async def _context(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


Ctx = Annotated[Context, Depends(_context)]
