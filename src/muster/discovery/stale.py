"""Marks the sets that nobody keeps up: the same endpoints, since when they could not be checked.

The mark is the stored set at its own epoch and the next revision. So it never replaces anything newer: a publisher
that comes between is fenced or fences, and takes its key over anew with what it has just read.
"""

import dataclasses
import datetime
import logging
from collections.abc import Collection

from muster.discovery.claims import Claims
from muster.errors import Fenced
from muster.model.endpoint import ServiceKey
from muster.registry.port import Registry

_log = logging.getLogger(__name__)


async def mark_stale(
    registry: Registry,
    claims: Claims,
    keys: Collection[ServiceKey],
    *,
    since: datetime.datetime,
    now: datetime.datetime,
) -> None:
    """Mark those of ``keys`` whose publisher is dead, and what dead publishers of the same source left.

    Raises ``RegistryError``.
    """
    marked = 0
    found = [
        (key, claim, stored)
        for key, claim in (await registry.claims()).items()
        if _is_left(claim.publisher, claims)
        and (key in keys or claims.may_settle(claim.publisher))
        # somebody may have taken the key over since, and published
        and (stored := await registry.get(key)) is not None
        and stored.epoch <= claim.epoch
    ]
    # After the sets: a publisher beats before it claims and publishes, so whoever has come back by then is seen here.
    await claims.look()
    for key, claim, stored in found:
        if stored.stale_since is None and stored.endpoints and _is_left(claim.publisher, claims):
            stale = dataclasses.replace(stored, revision=stored.revision + 1, stale_since=since, published_at=now)
            try:
                await registry.publish(key, stale)
            except Fenced:
                continue
            marked += 1
    if marked:
        _log.warning("marked as stale: %d; nobody could check since %s", marked, since.isoformat(timespec="seconds"))


def _is_left(publisher: str, claims: Claims) -> bool:
    return publisher == claims.publisher or claims.is_dead(publisher)
