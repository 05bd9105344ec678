"""Claims keys in etcd, many at once; the rule is ``claiming.py``'s.

A batch is read in one transaction and written in another, which holds only if neither the claim nor the set of any of
its keys has changed since: the epoch of a claim goes above that of the set that is stored *then*. If something has
changed, that same transaction reads the batch again, and its halves are tried apart, so that one disputed key does
not hold up its neighbours. Keys that somebody else has need no write.

Reading all claims and sets at once was refused: with a thousand services that is megabytes of sets, read long before
the last batch is written.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from muster.errors import InvalidSpec, RegistryUnavailable
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry.claiming import claimed
from muster.registry.etcd_client import EtcdClient
from muster.registry.etcd_keys import Layout
from muster.registry.etcd_operations import get, put, unchanged, values
from muster.registry.port import Claim
from muster.registry.stored import claim_from_text, claim_to_text

BATCH_KEYS = 60
"""Two reads and two comparisons for each; etcd takes 128 of a kind in one transaction."""

BATCHES_AT_ONCE = 4
ATTEMPTS = 20
"""Six halve a batch down to single keys, and each of those may be disputed fourteen times more."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Present:
    """What etcd held for one key."""

    claim: Claim | None
    claim_revision: int
    stored: EndpointSet | None
    set_revision: int


class Claimer:
    """One call of ``claim``."""

    def __init__(
        self, client: EtcdClient, layout: Layout, publisher: str, *, over: Collection[str], floor: int
    ) -> None:
        self._client = client
        self._layout = layout
        self._publisher = publisher
        self._over = over
        self._floor = floor
        self._answer: dict[ServiceKey, Claim] = {}

    async def claim(self, keys: Iterable[ServiceKey]) -> Mapping[ServiceKey, Claim]:
        """Claim ``keys``; return whose each is now. Raises ``RegistryUnavailable``."""
        wanted = list(dict.fromkeys(keys))
        batches = iter([wanted[at : at + BATCH_KEYS] for at in range(0, len(wanted), BATCH_KEYS)])

        async def work() -> None:
            for batch in batches:
                await self._settle(await self._read(batch), ATTEMPTS)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(BATCHES_AT_ONCE, -(-len(wanted) // BATCH_KEYS))):
                    group.create_task(work())
        except* RegistryUnavailable as errors:
            failed = errors
        else:
            return self._answer
        raise RegistryUnavailable(str(failed.exceptions[0])) from failed

    async def _read(self, keys: Sequence[ServiceKey]) -> dict[ServiceKey, _Present]:
        answer = await self._client.txn("claim", self._reads(keys))
        return self._present(keys, values(answer))

    async def _settle(self, found: Mapping[ServiceKey, _Present], attempts: int) -> None:
        owners = {
            key: claimed(present.claim, present.stored, self._publisher, over=self._over, floor=self._floor)
            for key, present in found.items()
        }
        writes = {key: owner for key, owner in owners.items() if owner != found[key].claim}
        self._answer |= {key: owner for key, owner in owners.items() if key not in writes}
        if not writes:
            return
        layout = self._layout
        answer = await self._client.txn(
            "claim",
            [put(layout.claim_of(key), claim_to_text(owner)) for key, owner in writes.items()],
            compare=[
                *(unchanged(layout.claim_of(key), found[key].claim_revision) for key in writes),
                *(unchanged(layout.set_of(key), found[key].set_revision) for key in writes),
            ],
            failure=self._reads(writes),
        )
        if answer.succeeded:
            self._answer |= writes
            return
        if attempts == 0:
            raise RegistryUnavailable(f"claim {next(iter(writes))}: others write it all the time")
        now = self._present(list(writes), values(answer))
        keys = list(now)
        half = (len(keys) + 1) // 2
        for part in (keys[:half], keys[half:]):
            await self._settle({key: now[key] for key in part}, attempts - 1)

    def _reads(self, keys: Iterable[ServiceKey]) -> list[object]:
        return [get(path) for key in keys for path in (self._layout.claim_of(key), self._layout.set_of(key))]

    def _present(self, keys: Sequence[ServiceKey], found: Sequence[Sequence[object]]) -> dict[ServiceKey, _Present]:
        """Read the answers to ``_reads``; a key with foreign data is left out."""
        present = {}
        for at, key in enumerate(keys):
            try:
                present[key] = _parsed(found[2 * at], found[2 * at + 1])
            except InvalidSpec as error:
                _log.warning("claim %s: foreign data: %s", key, error)
        return present


def _parsed(claims: Sequence[object], sets: Sequence[object]) -> _Present:
    claim, claim_revision = _only(claims)
    stored, set_revision = _only(sets)
    return _Present(
        None if claim is None else claim_from_text(claim),
        claim_revision,
        None if stored is None else EndpointSet.from_json(stored),
        set_revision,
    )


def _only(found: Sequence[object]) -> tuple[bytes | None, int]:
    for each in found:
        return each.value, each.mod_revision  # type: ignore[attr-defined]
    return None, 0
