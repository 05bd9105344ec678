"""What the ingress last told of the load, for the loops that decide by it.

In: load reports, as the API gets them. Out: ``load_of`` a container, as long as the report is fresh; a stale one is as
good as none, because what it counts may be long over, or only have begun. Whoever waits for a drain is woken by every
report that moves it.

In memory on purpose: a restarted server knows nothing until the next report, which comes within a second, and not
knowing is safe (a drain waits, a slow probe counts).
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from muster.clock import Clock
from muster.model.ids import ContainerUuid
from muster.model.routes import ContainerLoad, LoadReport

STALE_SECONDS = 3.0
"""The ingress reports at least every second; one that missed two reports is away, or too busy to be believed."""

FAILED_FOR_SECONDS = 2.5


class Traffic:
    """The newest report of each ingress."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loads: Mapping[ContainerUuid, ContainerLoad] = {}
        self._bind_failures: Mapping[int, str] = {}
        self._failed_since: dict[int, float] = {}
        self._ingress = ""
        self._fence = (0, 0)
        self._told_at = -STALE_SECONDS
        self._announced: set[int] = set()
        self._has_failures = asyncio.Event()
        self._listeners: list[Callable[[Iterable[ContainerUuid]], None]] = []

    def on_move(self, listener: Callable[[Iterable[ContainerUuid]], None]) -> None:
        """Call ``listener`` with the containers that refuse and whose load changed."""
        self._listeners.append(listener)

    def put(self, report: LoadReport) -> None:
        """Take a report in place of the last one."""
        before, self._loads = self._loads, {each.container_uuid: each for each in report.loads}
        self._ingress, self._fence = report.ingress, (report.epoch, report.revision)
        self._told_at = self._clock.monotonic()
        self._bind_failures = dict(report.bind_failures)
        since = self._failed_since
        self._failed_since = {port: since.get(port, self._told_at) for port in self._bind_failures}
        ripe = self.bind_failures().keys()
        if ripe - self._announced:
            self._has_failures.set()
        self._announced = set(ripe)
        moved = [uuid for uuid, load in self._loads.items() if load.is_refusing and _has_moved(before.get(uuid), load)]
        if moved:
            for listener in self._listeners:
                listener(moved)

    @property
    def is_known(self) -> bool:
        """Whether the last report is fresh."""
        return self._clock.monotonic() - self._told_at < STALE_SECONDS

    @property
    def ingress(self) -> str:
        """Which ingress told last; empty: none yet."""
        return self._ingress

    @property
    def fence(self) -> tuple[int, int]:
        """The table that was in force there."""
        return self._fence

    def load_of(self, uuid: ContainerUuid | None) -> ContainerLoad | None:
        """Return a container's load; ``None``: not known."""
        return self._loads.get(uuid) if uuid is not None and self.is_known else None

    def bind_failures(self) -> Mapping[int, str]:
        """Return the ports that could not be opened for a while, and why; none if that is not known.

        For a while, because whoever has it may be about to leave, and an address that stays is worth a moment.
        """
        if not self.is_known:
            return {}
        now = self._clock.monotonic()
        return {
            port: why
            for port, why in self._bind_failures.items()
            if now - self._failed_since.get(port, now) >= FAILED_FOR_SECONDS
        }

    async def failures(self) -> None:
        """Return when there are new bind failures."""
        await self._has_failures.wait()
        self._has_failures.clear()


def _has_moved(before: ContainerLoad | None, now: ContainerLoad) -> bool:
    return before is None or (before.is_refusing, before.in_flight) != (now.is_refusing, now.in_flight)
