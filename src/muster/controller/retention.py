"""Retention: what nobody needs to see any more is forgotten by age, a small batch at a time.

A key is one of the three logs that would grow for ever: events, released containers, audit entries. A look forgets at
most ``BATCH`` rows of it in one short transaction and comes back after a pause while there is more, so a write that
anybody waits for is never behind more than one batch, also when a setting has just made a million rows too old.

What was counted goes on being counted (``Containers.prune``), what an unreleased container took over stays, and a
cursor into events that are gone has expired. Nothing wakes this loop but its passes: time tells nobody that it passes.
"""

import datetime
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from muster.clock import Clock
from muster.store.port import Store, Transaction

BATCH = 500
"""Rows of a transaction: about 10 ms with the indexes of the events."""
PAUSE = datetime.timedelta(seconds=0.25)
"""Between batches: 2,000 rows a second, ten times what a busy host writes, in a tenth of the writer's time."""

EVENTS, CONTAINERS, AUDIT = "events", "containers", "audit"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Keep:
    """How many days each log reaches back; 0: for ever."""

    events_days: float = 0.0
    containers_days: float = 0.0
    audit_days: float = 0.0


class RetentionReconciler:
    """Forgets what is older than it is to be kept; see the module's text."""

    name = "retention"

    def __init__(self, store: Store, clock: Clock, keep: Keep) -> None:
        self._store = store
        self._clock = clock
        self._days = {EVENTS: keep.events_days, CONTAINERS: keep.containers_days, AUDIT: keep.audit_days}

    async def keys(self) -> Iterable[str]:
        """Return the logs that do not reach back for ever."""
        return [log for log, days in self._days.items() if days]

    async def reconcile(self, key: str) -> datetime.datetime | None:
        """Forget one batch."""
        before = self._clock.now() - datetime.timedelta(days=self._days[key])
        gone = await self._store.write(lambda tx: _prune(tx, key, before))
        _log.debug("forgot %d of the %s before %s", gone, key, before)
        return self._clock.now() + PAUSE if gone >= BATCH else None


def _prune(tx: Transaction, key: str, before: datetime.datetime) -> int:
    if key == EVENTS:
        return tx.events.prune(tx.events.last_before(before, BATCH))
    if key == CONTAINERS:
        return tx.containers.prune(before, BATCH)
    return tx.audit.prune(before, BATCH)
