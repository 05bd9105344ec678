"""What is planned from and what comes out: a ``Situation`` in, a ``Plan`` out.

A situation is one deployment with all that bears on it, loaded in one transaction. A plan says what to start, what to
stop, what became of a rollout or a Job, when to look again, and why. It proposes and changes nothing; at rest it is
empty.
"""

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from muster.model.container import Container, Reason
from muster.model.deployment import Deployment
from muster.model.ids import ContainerId


@dataclass(frozen=True, slots=True)
class Situation:
    """A deployment, its containers and what is known of their machines, at one moment.

    ``containers`` are all unfinished ones and, as far as a plan needs them, the last finished ones. ``outdated`` are
    live ones that are to be replaced, and why (``planner.outdated``); those ``at_once`` do not wait until they are.
    ``lost`` are live ones whose machine is lost.
    ``completed`` counts those that ever came to their own end. ``room``: the outdated container whose end lets an
    unplaced one find a machine, asked for by ``Plan.wants_room``; ``None``: there is none, or nobody has looked.
    ``watched_since`` is when somebody began to look at containers: what they did before that, nobody saw.
    """

    deployment: Deployment
    containers: tuple[Container, ...]
    now: datetime.datetime
    outdated: Mapping[ContainerId, Reason] = field(default_factory=lambda: MappingProxyType({}))
    at_once: frozenset[ContainerId] = frozenset()
    lost: frozenset[ContainerId] = frozenset()
    completed: int = 0
    room: ContainerId | None = None
    watched_since: datetime.datetime | None = None


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
    outdated: int = 0
    lost: int = 0
    completed: int = 0
    backoff_until: datetime.datetime | None = None

    @property
    def sentence(self) -> str:
        """Say it in one line."""
        parts = f"{self.wanted} wanted: {self.running} running, {self.starting} starting, {self.unplaced} unplaced"
        for count, word in (
            (self.stopping, "stopping"),
            (self.outdated, "to be replaced"),
            (self.lost, "on lost machines"),
            (self.completed, "completed"),
        ):
            if count:
                parts += f", {count} {word}"
        if self.backoff_until:
            parts += f"; containers die young, next start not before {self.backoff_until:%H:%M:%S} UTC"
        return parts


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions, and their reason. ``wake_at``: plan again then, though nothing may have changed.

    ``is_good``: the present version has proved itself. ``failure``: it has not and is given up, for this reason.
    ``is_over``: nothing is left to do, the deployment has come to its end. ``wants_room``: a container that is to
    replace an outdated one waits for a machine, and one may be ended to make room for it, if that helps.
    """

    report: Report
    start: tuple[ContainerId, ...] = ()
    stop: tuple[Stop, ...] = ()
    is_good: bool = False
    failure: str = ""
    is_over: bool = False
    wants_room: bool = False
    wake_at: datetime.datetime | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do now."""
        return not (self.start or self.stop or self.is_good or self.failure or self.is_over)


class Planner(Protocol):
    """WHAT one type of deployment needs. ``new_id`` names what is to be started."""

    def __call__(self, situation: Situation, *, new_id: Callable[[], ContainerId]) -> Plan: ...  # noqa: D102
