"""The one place where requests wait: bounded, and in the order in which they are worth serving.

The order, by what counts first
1. The higher ``priority``.
2. Between tenants of one priority: whose work so far, in expected seconds, is least (start-time fair queueing: Goyal,
   Vin, Cheng 1997). A tenant that comes back gets no credit for the time in which it asked for nothing.
3. The smaller ``rank``: size classes a quarter apart, so that requests that are about as large stay in the order in
   which they came. Shortest first is what keeps most requests within a multiple of their own time under load.
4. Age, counted from when the call began: one that was refused elsewhere does not queue anew.

Nobody starves: for each second of work that overtakes whoever waits longest, it is credited ``RESERVE``; when that has
paid for its own work, it is first. So a large request, a low priority and a request that fits only an empty replica
all get a seventeenth of the capacity under any overload, and simulated overload costs a point of goodput for it.

A full queue refuses at once. 1,024 waiting requests on a service of 4 replicas with 8 slots are 32 rounds: at one
second a request that is the whole default wait of 30 seconds, so a longer queue would only hold requests that are
going to time out.
"""

import heapq
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from muster.balancer.ticket import Ticket

DEFAULT_CAPACITY = 1024
DEFAULT_WAIT_SECONDS = 30.0
RANK_STEP = 1.25
RESERVE = 1 / 16
MOST_REMEMBERED = 256
"""Tenants that do not wait, and whose share is remembered."""

_age = attrgetter("asked_at")
_place = attrgetter("rank", "asked_at")


def rank_of(relative_cost: float) -> int:
    """Return the size class of a request that takes ``relative_cost`` times as long as an average one."""
    return round(math.log(max(relative_cost, 1e-9)) / math.log(RANK_STEP))


class WaitingQueue:
    """Tickets that wait."""

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self._capacity = capacity
        self._tickets: set[Ticket] = set()
        self._by_age: list[Ticket] = []
        self._bands: dict[int, _Band] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._tickets

    def __iter__(self) -> Iterator[Ticket]:
        """Iterate oldest first; no ticket may come or go meanwhile."""
        return iter(self._by_age)

    @property
    def is_full(self) -> bool:
        """Whether one more would be too many."""
        return len(self._tickets) >= self._capacity

    @property
    def favoured(self) -> Ticket | None:
        """Whoever has been overtaken so much that it is first now."""
        return self._by_age[0] if self._by_age and self._by_age[0].credit >= self._by_age[0].cost else None

    def push(self, ticket: Ticket) -> None:
        """Put it where it belongs."""
        self._tickets.add(ticket)
        insort(self._by_age, ticket, key=_age)
        priority = ticket.ask.priority
        if priority not in self._bands:
            self._bands[priority] = _Band()
        self._bands[priority].push(ticket)

    def in_order(self) -> Iterator[Ticket]:
        """Yield whoever is next, again and again; only ``take`` of the ticket just yielded may happen meanwhile."""
        favoured = self.favoured
        if favoured is not None:
            yield favoured
        for priority in sorted(self._bands, reverse=True):
            for ticket in self._bands[priority].in_order():
                if ticket is not favoured:
                    yield ticket

    def take(self, ticket: Ticket) -> None:
        """Take out one that is served now, and count whom it overtook."""
        if ticket is not self._by_age[0]:
            self._by_age[0].credit += RESERVE * ticket.cost
        self._bands[ticket.ask.priority].serve(ticket)
        self._remove(ticket)

    def discard(self, ticket: Ticket) -> None:
        """Take out one that is not served; one that is not there is no error."""
        if ticket in self._tickets:
            self._remove(ticket)

    def drop_expired(self, now: float) -> None:
        """Take out whoever is past its deadline; its owner learns it by its own timer."""
        for ticket in [each for each in self._by_age if each.deadline <= now]:
            self.discard(ticket)

    def clear(self) -> None:
        """Take out everybody."""
        self._tickets.clear()
        self._by_age.clear()
        self._bands.clear()

    def tenants_beside(self, ticket: Ticket) -> int:
        """Return how many tenants share what its priority gets, its own among them."""
        band = self._bands.get(ticket.ask.priority)
        return 1 if band is None else band.tenants_beside(ticket.ask.tenant)

    def ahead_of(self, ticket: Ticket) -> tuple[float, float]:
        """Return the expected seconds of work that is before ``ticket``, in it or not: by order, and by age.

        By order counts what is larger, but of its own tenant, only as far as fair shares let it go first.
        """
        everything = sum(each.cost for each in self._tickets if each is not ticket)
        higher = sum(band.work for priority, band in self._bands.items() if priority > ticket.ask.priority)
        band = self._bands.get(ticket.ask.priority)
        return higher + (band.ahead_of(ticket) if band is not None else 0.0), everything

    def by_tenant(self) -> dict[str, list[Ticket]]:
        """Return who waits, oldest first, for each tenant."""
        found: dict[str, list[Ticket]] = {}
        for ticket in self._by_age:
            found.setdefault(ticket.ask.tenant, []).append(ticket)
        return found

    def _remove(self, ticket: Ticket) -> None:
        self._tickets.remove(ticket)
        del self._by_age[_index(self._by_age, ticket, _age)]
        band = self._bands[ticket.ask.priority]
        band.remove(ticket)
        if band.is_over:
            del self._bands[ticket.ask.priority]


class _Lane:
    """One tenant's tickets in a band, and until when, in virtual seconds, it has had its share."""

    __slots__ = ("served_until", "tickets", "work")

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []
        self.served_until = 0.0
        self.work = 0.0


class _Band:
    """All tickets of one priority. Virtual time is that of the lane which was served last."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}
        self._virtual = 0.0
        self._waiting = 0

    @property
    def is_over(self) -> bool:
        """Whether nobody waits; shares are forgotten then, as an idle link's are."""
        return self._waiting == 0

    @property
    def work(self) -> float:
        return sum(lane.work for lane in self._lanes.values())

    def push(self, ticket: Ticket) -> None:
        lane = self._lanes.get(ticket.ask.tenant)
        if lane is None:
            lane = self._lanes[ticket.ask.tenant] = _Lane()
        if not lane.tickets:
            lane.served_until = max(lane.served_until, self._virtual)
        insort(lane.tickets, ticket, key=_place)
        lane.work += ticket.cost
        self._waiting += 1

    def in_order(self) -> Iterator[Ticket]:
        turns = [(lane.served_until, tenant, 0) for tenant, lane in self._lanes.items() if lane.tickets]
        heapq.heapify(turns)
        while turns:
            _, tenant, index = turns[0]
            lane = self._lanes.get(tenant)
            if lane is None or index >= len(lane.tickets):
                heapq.heappop(turns)
                continue
            before = len(lane.tickets)
            yield lane.tickets[index]
            heapq.heapreplace(turns, (lane.served_until, tenant, index + (len(lane.tickets) == before)))

    def serve(self, ticket: Ticket) -> None:
        lane = self._lanes[ticket.ask.tenant]
        self._virtual = max(self._virtual, lane.served_until)
        lane.served_until += ticket.cost

    def remove(self, ticket: Ticket) -> None:
        lane = self._lanes[ticket.ask.tenant]
        del lane.tickets[_index(lane.tickets, ticket, _place)]
        lane.work = lane.work - ticket.cost if lane.tickets else 0.0
        self._waiting -= 1
        if len(self._lanes) > 2 * self._waiting + MOST_REMEMBERED:
            self._forget()

    def _forget(self) -> None:
        """Drop tenants that do not wait: those that would come back as a new one does, else half of them, oldest first.

        That gives somebody a share too early now and then, which is better than remembering everybody for ever.
        """
        idle = sorted((lane.served_until, name) for name, lane in self._lanes.items() if not lane.tickets)
        for served_until, name in idle:
            if served_until <= self._virtual or 2 * len(self._lanes) > 4 * self._waiting + MOST_REMEMBERED:
                del self._lanes[name]

    def tenants_beside(self, tenant: str) -> int:
        return 1 + sum(bool(lane.tickets) for name, lane in self._lanes.items() if name != tenant)

    def ahead_of(self, ticket: Ticket) -> float:
        lane = self._lanes.get(ticket.ask.tenant)
        tickets = lane.tickets if lane is not None else []
        before = tickets[: bisect_right(tickets, _place(ticket), key=_place)]
        own = sum(each.cost for each in before if each is not ticket)
        # While it is served, each other tenant that waits gets as much at most, and no more than it has.
        return own + sum(min(own + ticket.cost, each.work) for each in self._lanes.values() if each is not lane)


def _index(tickets: Sequence[Ticket], ticket: Ticket, key: Callable[[Ticket], Any]) -> int:
    """Return where ``ticket`` is in a list that is ordered by ``key``."""
    index = bisect_left(tickets, key(ticket), key=key)
    while tickets[index] is not ticket:
        index += 1
    return index
