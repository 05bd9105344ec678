"""A registry in etcd v3: ``etcd://HOST[,HOST…][?prefix=/muster]``, or ``etcds://…`` with TLS (``etcd_url.py``).

Layout: ``etcd_keys.py``, and ``docs/registries.md`` for people. Every write is a transaction that holds only if the
key is as it was read (its mod_revision), so the fence is compared where it cannot change meanwhile; no lock is held,
and no etcd lease: publishers are judged by who observes their heartbeats (``discovery/claims.py``).

A watch reads (the key, its alias, the alias's target, all at one revision), yields what is newer, and waits for any
change after that revision; then it reads again. So the news carries no data, and nothing that etcd may do to a watch
can make it wrong: a stream that broke, a compaction, a restart, a restart without data, whose revisions begin anew.
Every few seconds it reads in any case. Each watch has a stream of its own, which is open only while somebody waits:
streams share one connection, and a reader that does not come back leaves nothing running. Taking the sets from the
events was refused: it saves a read of a millisecond, and needs a second way to follow an alias.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from muster.errors import Fenced, InvalidSpec, RegistryUnavailable
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry import etcd_keys, stored
from muster.registry.etcd_claims import Claimer
from muster.registry.etcd_client import EtcdClient
from muster.registry.etcd_keys import Layout, end_of, service_key
from muster.registry.etcd_operations import delete, get, put, unchanged, values
from muster.registry.etcd_url import EtcdAddress, parse
from muster.registry.port import Beat, Claim

ATTEMPTS = 20
"""Each means that somebody else has just written the key; publishers of one key are two at most, and not for long."""

REREAD_SECONDS = 4.0
"""How soon a watch reads without being told, give or take a quarter; a change that etcd told nobody is no older."""

RETRY_SECONDS = 0.2
"""How soon a watch tries again, give or take a quarter."""

_log = logging.getLogger(__name__)


def open_url(url: str) -> "EtcdRegistry":
    """Open an etcd URL; nothing is contacted yet."""
    return EtcdRegistry(parse(url))


@dataclass(frozen=True, slots=True)
class _Found:
    """What a key stood for at a revision."""

    revision: int
    target: ServiceKey
    present: EndpointSet | None


class EtcdRegistry:
    """One prefix of one etcd, seen by one event loop."""

    def __init__(self, address: EtcdAddress) -> None:
        self._client = EtcdClient(address)
        self._layout = Layout(address.prefix)

    async def publish(self, key: ServiceKey, endpoints: EndpointSet) -> None:
        """Replace the set of ``key``. Raises ``Fenced`` when the stored one is as new or newer."""
        path = self._layout.set_of(key)

        def decide(text: bytes | None) -> Any:
            present = _set(path, text)
            if present is not None and present.fence >= endpoints.fence:
                raise Fenced(f"publish {key} at {endpoints.fence}: the registry holds {present.fence}")
            return put(path, endpoints.to_json())

        await self._swap(f"publish {key}", path, decide, is_repeatable=False)

    async def link(self, alias: ServiceKey, target: ServiceKey) -> None:
        """Let ``alias`` stand for ``target`` from now on."""
        path = self._layout.alias_of(alias)

        def decide(text: bytes | None) -> Any:
            return None if _alias(path, text) == target else put(path, stored.alias_to_text(target))

        await self._swap(f"link {alias}", path, decide)

    async def unlink(self, alias: ServiceKey) -> None:
        """Forget an alias; one that is not there is no error."""
        path = self._layout.alias_of(alias)

        def decide(text: bytes | None) -> Any:
            return None if _alias(path, text) is None else delete(path)

        await self._swap(f"unlink {alias}", path, decide)

    async def get(self, key: ServiceKey) -> EndpointSet | None:
        """Return the present set of a key or alias, ``None`` if there is none."""
        return (await self._resolve(f"read {key}", key, key)).present

    async def target(self, key: ServiceKey) -> ServiceKey | None:
        """Return the key whose set ``get`` would return, ``None`` if there is no set."""
        found = await self._resolve(f"read {key}", key, key)
        return None if found.present is None else found.target

    async def watch(self, key: ServiceKey) -> AsyncIterator[EndpointSet]:
        """Yield the present set, then every newer one, for ever; until the registry is closed."""
        seen: tuple[ServiceKey, tuple[int, int]] | None = None
        target = key
        is_troubled = False
        while True:
            try:
                found = await self._resolve(f"watch {key}", key, target)
            except RegistryUnavailable as error:
                if self._client.is_closed:
                    raise
                if not is_troubled:
                    _log.warning("%s; still trying", error)
                is_troubled = True
                await asyncio.sleep(_about(RETRY_SECONDS))
                continue
            is_troubled = False
            target, present = found.target, found.present
            if present is not None and (seen is None or target != seen[0] or present.fence > seen[1]):
                seen = target, present.fence
                yield present
            if not await self._changed(key, found):
                await asyncio.sleep(_about(RETRY_SECONDS))

    async def keys(self) -> Sequence[ServiceKey]:
        """Return all keys that hold a set (no aliases), in order."""
        found = await self._list("list keys", self._layout.sets, keys_only=True)
        keys = (service_key(path) for path in found)
        return sorted(filter(None, keys), key=lambda key: (key.account, key.service, key.port))

    async def beat(self, publisher: str, beat: Beat) -> Mapping[str, Beat]:
        """Record a heartbeat; return every publisher's last one as it was just before."""
        beats = self._layout.beats
        answer = await self._client.txn(
            "beat",
            [get(beats, end_of(beats)), put(self._layout.beat_of(publisher), stored.beat_to_text(beat))],
        )
        return _beats({each.key.removeprefix(beats): each.value for each in values(answer)[0]})

    async def beats(self) -> Mapping[str, Beat]:
        """Return every publisher's last heartbeat."""
        return _beats(await self._list("read heartbeats", self._layout.beats))

    async def retire(self, publisher: str) -> None:
        """Forget a publisher's heartbeat."""
        await self._client.txn("retire", [delete(self._layout.beat_of(publisher))])

    async def claim(
        self, keys: Collection[ServiceKey], publisher: str, *, over: Collection[str], floor: int
    ) -> Mapping[ServiceKey, Claim]:
        """Give ``publisher`` what nobody, itself, or one of ``over`` has; return whose each key is now."""
        return await Claimer(self._client, self._layout, publisher, over=over, floor=floor).claim(keys)

    async def claims(self) -> Mapping[ServiceKey, Claim]:
        """Return whose each key is."""
        found = {}
        for path, text in (await self._list("read claims", self._layout.claims)).items():
            key = service_key(path)
            if key is not None:
                try:
                    found[key] = stored.claim_from_text(text)
                except InvalidSpec as error:
                    _log.debug("claim of %s: foreign data: %s", key, error)
        return found

    async def aclose(self) -> None:
        """Let go of the registry; what was published stays. Watches under way raise ``RegistryUnavailable``."""
        await self._client.aclose()

    async def _changed(self, key: ServiceKey, found: _Found) -> bool:
        """Return when ``found`` may be no longer so: ``False`` if etcd could not be asked to tell."""
        paths = dict.fromkeys([self._layout.set_of(key), self._layout.alias_of(key), self._layout.set_of(found.target)])
        try:
            async with self._client.watching(list(paths), found.revision + 1) as news:
                while not (await asyncio.wait([news], timeout=_about(REREAD_SECONDS)))[0]:
                    now = await self._resolve(f"watch {key}", key, found.target)
                    if (now.target, now.present) != (found.target, found.present):
                        return True
            return not news.cancelled() and news.result()
        except RegistryUnavailable:
            return False  # the caller's next read says so, or finds that it was nothing

    async def _resolve(self, attempt: str, key: ServiceKey, guess: ServiceKey) -> _Found:
        """Read what ``key`` stands for, all at one revision: ``guess``, as last time, if it stands for none now."""
        layout = self._layout
        while True:
            target_path = layout.set_of(guess)
            answer = await self._client.txn(
                attempt, [get(layout.set_of(key)), get(layout.alias_of(key)), get(target_path)]
            )
            own, alias, text = (each[0].value if each else None for each in values(answer))
            present = _set(layout.set_of(key), own)
            if present is not None:
                return _Found(answer.header.revision, key, present)
            target = _alias(layout.alias_of(key), alias)
            if target in (None, guess):
                return _Found(answer.header.revision, guess, _set(target_path, text))
            guess = target

    async def _swap(
        self, attempt: str, path: bytes, decide: Callable[[bytes | None], Any], *, is_repeatable: bool = True
    ) -> None:
        """Do at ``path`` what ``decide`` makes of its value; decide again if that has changed meanwhile."""
        found = values(await self._client.txn(attempt, [get(path)]))[0]
        for _ in range(ATTEMPTS):
            operation = decide(found[0].value if found else None)
            if operation is None:
                return
            answer = await self._client.txn(
                attempt,
                [operation],
                compare=[unchanged(path, found[0].mod_revision if found else 0)],
                failure=[get(path)],
                is_repeatable=is_repeatable,
            )
            if answer.succeeded:
                return
            found = values(answer)[0]
        raise RegistryUnavailable(f"{attempt}: others write it all the time")

    async def _list(self, attempt: str, prefix: bytes, *, keys_only: bool = False) -> Mapping[bytes, bytes]:
        answer = await self._client.txn(attempt, [get(prefix, end_of(prefix), keys_only=keys_only)])
        return {each.key.removeprefix(prefix): each.value for each in values(answer)[0]}


def _set(path: bytes, text: bytes | None) -> EndpointSet | None:
    try:
        return None if text is None else EndpointSet.from_json(text)
    except InvalidSpec as error:
        raise RegistryUnavailable(f"read {path.decode()}: foreign data: {error}") from error


def _alias(path: bytes, text: bytes | None) -> ServiceKey | None:
    try:
        return None if text is None else stored.alias_from_text(text)
    except InvalidSpec as error:
        raise RegistryUnavailable(f"read {path.decode()}: foreign data: {error}") from error


def _beats(found: Mapping[bytes, bytes]) -> Mapping[str, Beat]:
    beats = {}
    for path, text in found.items():
        try:
            beats[etcd_keys.publisher(path)] = stored.beat_from_text(text)
        except InvalidSpec as error:
            _log.debug("heartbeat of %s: foreign data: %s", path, error)
    return beats


def _about(seconds: float) -> float:
    return seconds * random.uniform(0.75, 1.25)  # noqa: S311 - spreads the load, hides nothing
