"""When a deployment whose containers die young may start the next one: derived from its history, never stored.

A container dies young when it ends by itself within ten minutes of its start (or never starts). Young deaths form
*rounds*: containers that were made before a round's first death belong to it, so three replicas that die together
are one sign of trouble, not three. The n-th round in a row delays the next start by 2**(n-1) seconds, at most five
minutes, counted from the round's last death. A container that ran ten minutes, or an edit, begins the count anew.

Times come from the wall clock, which may be set back. What then lies in the future is not waited for (that could take
years), and must not hide the deaths of the present either, or nothing would slow a crash loop until the clock has
caught up.
"""

import datetime
from collections.abc import Iterable, Sequence

from muster.model.container import Container, Reason
from muster.model.ids import MachineId

HEALTHY_AFTER = datetime.timedelta(minutes=10)
FIRST_DELAY = datetime.timedelta(seconds=1)
LONGEST_DELAY = datetime.timedelta(minutes=5)
_MOST_DOUBLINGS = 9  # 2**9 s is already beyond five minutes
_LEAST_HISTORY = 50
_NOT_OF_THE_COMMAND = frozenset({Reason.ENGINE_RESTARTED, Reason.KILLED_EXTERNALLY})


def history_needed(replica_num: int) -> int:
    """Return how many of the last ended containers show every round that makes a difference to the delay."""
    return max(_LEAST_HISTORY, replica_num * (_MOST_DOUBLINGS + 1))


def retry_at(
    containers: Iterable[Container], edited_at: datetime.datetime, now: datetime.datetime
) -> datetime.datetime | None:
    """Return when the next container may start; ``None`` or a time that has passed: now."""
    deaths = young_deaths(containers, edited_at, now)
    if not deaths:
        return None
    last_death = deaths[-1].stopped_at
    assert last_death is not None
    delay: datetime.timedelta = FIRST_DELAY * 2 ** min(rounds(deaths) - 1, _MOST_DOUBLINGS)
    return last_death + min(LONGEST_DELAY, delay)


def rounds(deaths: Iterable[Container]) -> int:
    """Count the rounds of young deaths, given in order of end."""
    count, first_death = 0, None
    for container in deaths:
        if first_death is None or container.created_at > first_death:
            count, first_death = count + 1, container.stopped_at
    return count


def machine_to_avoid(
    containers: Iterable[Container], edited_at: datetime.datetime, now: datetime.datetime
) -> frozenset[MachineId]:
    """Return the machine of the last young death, where the next container should not go if another fits."""
    deaths = young_deaths(containers, edited_at, now)
    placement = deaths[-1].placement if deaths else None
    return frozenset() if placement is None else frozenset({placement.machine_id})


def young_deaths(
    containers: Iterable[Container], edited_at: datetime.datetime, now: datetime.datetime
) -> Sequence[Container]:
    """Return the young deaths since the last sign of health, of containers made since the edit, in order of end."""
    placed = [container for container in containers if container.status is not None]
    if edited_at > now:  # the clock was set back since: which deaths came before the edit is no longer known
        edited_at = datetime.datetime.min.replace(tzinfo=datetime.UTC)
    healthy_at = max((proof for proof in map(_proved_healthy_at, placed) if proof and proof <= now), default=edited_at)
    deaths = (
        container
        for container in placed
        if died_young(container)
        and container.created_at >= edited_at
        and container.stopped_at is not None
        and healthy_at <= container.stopped_at <= now + LONGEST_DELAY  # machines' clocks may differ, but not by more
    )
    return sorted(deaths, key=lambda container: (container.stopped_at, container.number))


def died_young(container: Container) -> bool:
    """Tell whether a container ended by itself within ten minutes of its start, or before it."""
    if container.stopped_at is None or container.stop is not None:
        return False
    if container.reason is not None and (container.reason.is_intended or container.reason in _NOT_OF_THE_COMMAND):
        return False
    return container.started_at is None or container.stopped_at - container.started_at < HEALTHY_AFTER


def _proved_healthy_at(container: Container) -> datetime.datetime | None:
    """Return when the container had run for ten minutes; it may have ended since, or that time may not have come."""
    if container.started_at is None:
        return None
    proof = container.started_at + HEALTHY_AFTER
    return None if container.stopped_at is not None and container.stopped_at < proof else proof
