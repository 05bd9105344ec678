"""What people see of a desk's queue, and which of its asks they mean when they take some out.

In: the asks that wait, and what ``show`` and ``evict`` say. Out: messages, and the asks that are meant; the desk does
the rest. Clients and tenants call themselves as they like, and an answer stays below what a connection may leave unread
(``connection.MOST_UNREAD_BYTES``) all the same.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from muster.balancer.statistics import Statistics
from muster.balancer.statistics_json import service_value
from muster.broker.frames import BadFrame
from muster.broker.messages import MOST_TEXT, Message
from muster.broker.visit import Asked
from muster.errors import QueueCancelled

MOST_SHOWN = 1000
"""Asks, and tenants: those that wait longest."""
_CONDITIONS = ("ask", "tenant", "older_than", "all")


def queue(waiting: Iterable[Asked], statistics: Statistics, *, clients: int, now: float) -> Message:
    """Return who waits, oldest first, the oldest of them by name."""
    by_age = sorted(waiting, key=lambda each: each.ticket.asked_at)
    tenants = statistics.tenants
    if len(tenants) > MOST_SHOWN:
        tenants = tuple(sorted(tenants, key=lambda each: -each.oldest_seconds)[:MOST_SHOWN])
    named = tuple(each._replace(tenant=_short(each.tenant)) for each in tenants)
    return {
        "type": "queue",
        "statistics": service_value(statistics._replace(tenants=named)),
        "clients": clients,
        "waiting": len(by_age),
        "asks": [_shown(each, now) for each in by_age[:MOST_SHOWN]],
    }


def meant(waiting: Iterable[Asked], message: Message, now: float) -> list[Asked]:
    """Return the asks that an ``evict`` is about. Raises ``BadFrame``.

    Those that are ``ask`` (a number that ``show`` gave), of ``tenant``, older than ``older_than`` seconds, or ``all``;
    of several conditions all have to hold.
    """
    given = {name: message[name] for name in _CONDITIONS if message.get(name) is not None}
    if not isinstance(given.get("all", True), bool):
        raise BadFrame("evict: all is neither true nor false")
    if not given.pop("all", False) and not given:
        raise BadFrame("evict: say which: ask, tenant, older_than or all")
    return [each for each in waiting if _is_meant(each, given, now)]


def evicted(service: str, asked: Asked, now: float) -> QueueCancelled:
    """Return what the caller of such an ask is told."""
    waited = now - asked.ticket.asked_at
    return QueueCancelled(f"{service}: an operator took the request out of the queue after {waited:.1f} s")


def _is_meant(asked: Asked, conditions: Mapping[str, Any], now: float) -> bool:
    older_than = conditions.get("older_than", -math.inf)
    if isinstance(older_than, bool) or not isinstance(older_than, int | float):
        raise BadFrame("evict: older_than is no number of seconds")
    return (
        conditions.get("ask", asked.number) == asked.number
        and conditions.get("tenant", asked.ticket.ask.tenant) == asked.ticket.ask.tenant
        and now - asked.ticket.asked_at > older_than
    )


def _shown(asked: Asked, now: float) -> Message:
    ticket = asked.ticket
    return {
        "ask": asked.number,
        "client": _short(asked.visit.client),
        "tenant": _short(ticket.ask.tenant),
        "priority": ticket.ask.priority,
        "waited": now - ticket.asked_at,
        "left": ticket.deadline - now,
        "cost": ticket.cost,
    }


def _short(text: str) -> str:
    """Return as much of a text as takes ``MOST_TEXT`` bytes in a frame, or a little more."""
    return text[: MOST_TEXT if text.isascii() and text.isprintable() else MOST_TEXT // 6]
