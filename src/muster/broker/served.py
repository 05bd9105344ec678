"""One service that is served here: its desk, the timer that wakes the desk, and who came by which name.

The desk knows no event loop, so whoever has spoken to it calls ``rearm``: there is one timer for a desk, and it is set
anew only when something comes due sooner. A timer that rings for something that is over by then does no harm.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from muster.broker.desk import Desk
from muster.broker.messages import Bye, Hello
from muster.broker.visit import Visitor
from muster.model.endpoint import EndpointSet, ServiceKey

SHORTEST_SECONDS = 0.001
"""Between two looks at what is due, so that a desk which is wrong about it does not keep the loop from everything."""
AFTER_ERROR_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Guest(Visitor, Protocol):
    """A visitor that can be sent away."""

    def dismiss(self, said: Bye) -> None:
        """Take leave, saying why; it leaves by itself then."""
        ...


class Served:
    """``key`` is the one that holds the set; a guest may have come by another that stands for it."""

    def __init__(self, key: ServiceKey, desk: Desk, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.key = key
        self.desk = desk
        self.names: Counter[ServiceKey] = Counter()
        self.empty_since = monotonic()
        self._guests: dict[Guest, ServiceKey] = {}
        self._monotonic = monotonic
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        self._rests_until = -math.inf

    @property
    def endpoints(self) -> EndpointSet | None:
        """The newest set that the desk has."""
        return self.desk.endpoints

    def update(self, endpoints: EndpointSet, *, is_other_target: bool = False) -> bool:
        """Take over a set."""
        try:
            return self.desk.update(endpoints, is_other_target=is_other_target)
        finally:
            self.rearm()

    def announce(self, guest: Guest, name: ServiceKey) -> None:
        """Note who is about to ``join``, and for which key it asked."""
        self._guests[guest] = name
        self.names[name] += 1

    def named(self, name: ServiceKey) -> list[Guest]:
        """Return who asked for that key."""
        return [guest for guest, by in self._guests.items() if by == name]

    def join(self, guest: Guest, hello: Hello) -> None:
        """Let somebody in who was announced."""
        self.desk.join(guest, hello)
        self.rearm()

    def leave(self, guest: Guest) -> None:
        """Forget somebody; who is not there is no error."""
        name = self._guests.pop(guest, None)
        if name is not None:
            self.names -= Counter((name,))
            if not self._guests:
                self.empty_since = self._monotonic()
        self.desk.leave(guest)
        self.rearm()

    def close(self, said: Bye) -> None:
        """Send everybody away."""
        guests = list(self._guests)
        self.desk.close(said)
        for guest in guests:
            guest.dismiss(said)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._rings_at = -math.inf  # nothing sets it again

    def rearm(self) -> None:
        """See that the desk is woken in time; call it after everything that was said to the desk."""
        at = max(self.desk.next_tick, self._rests_until)
        if at < self._rings_at:
            if self._timer is not None:
                self._timer.cancel()
            self._rings_at = at
            self._timer = self._loop.call_later(max(SHORTEST_SECONDS, at - self._monotonic()), self._ring)

    def _ring(self) -> None:
        self._timer, self._rings_at = None, math.inf
        try:
            if self.desk.next_tick <= self._monotonic():
                self.desk.tick()
        except Exception:  # noqa: BLE001 - whatever it is, the other services go on, and this one tries
            _log.exception("%s: the queue could not be looked at", self.key)
            self._rests_until = self._monotonic() + AFTER_ERROR_SECONDS
        self.rearm()
