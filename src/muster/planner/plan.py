"""The result of planning one deployment: what to start, what to stop, when to look again, and why.

A plan proposes and changes nothing. At rest it is empty.
"""

import datetime
from dataclasses import dataclass

from muster.model.container import Reason
from muster.model.ids import ContainerId


@dataclass(frozen=True, slots=True)
class Stop:
    """End one container."""

    container_id: ContainerId
    reason: Reason


@dataclass(frozen=True, slots=True)
class Report:
    """What the plan was made from. ``sentence`` is for people."""

    wanted: int
    unplaced: int
    starting: int
    running: int
    stopping: int
    backoff_until: datetime.datetime | None = None

    @property
    def sentence(self) -> str:
        """Say it in one line."""
        parts = f"{self.wanted} wanted: {self.running} running, {self.starting} starting, {self.unplaced} unplaced"
        if self.stopping:
            parts += f", {self.stopping} stopping"
        if self.backoff_until:
            parts += f"; containers die young, next start not before {self.backoff_until:%H:%M:%S} UTC"
        return parts


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions, and their reason. ``wake_at``: plan again then, though nothing may have changed."""

    report: Report
    start: tuple[ContainerId, ...] = ()
    stop: tuple[Stop, ...] = ()
    wake_at: datetime.datetime | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do now."""
        return not self.start and not self.stop
