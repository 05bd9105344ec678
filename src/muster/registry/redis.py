"""A registry in Redis 6 or later, or Valkey: ``redis://HOST[:PORT][/DB][?prefix=muster]``, ``rediss://`` with TLS.

::

    muster:set:<account>/<service>/<port>      an endpoint set (docs/endpoint-set.md), a string
    muster:alias:<account>/<service>/<port>    {"schema":1,"target":{…}}, a string
    muster:sets                                which keys have a set, a set of paths
    muster:claims, muster:beats                hashes: path → [publisher, epoch], publisher → [count, seconds]

Names are encoded as the file registry encodes them. Sets and aliases are written by scripts (``redis_scripts.py``), so
the fence is compared where it cannot change meanwhile, and each change is announced on a channel named like its key.
The index may name a set that somebody deleted or Redis evicted, so ``keys`` looks whether it is there: only then does
its publisher notice, and publish it again.

A watch reads (the key, its alias, the alias's target), yields what is newer, and waits until one of the three rings
(``redis_bell.py``) or a few seconds have passed; then it reads again. News carries no data, so a lost message is late
and nothing worse, and a Redis that restarted empty says nothing at all.

Every call has two seconds: a Redis that hangs is one that cannot be reached. A call whose connection turns out to be
broken is made once more, on another; should the first have been carried out, a publication finds itself fenced.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from muster.errors import Fenced, InvalidSpec, RegistryUnavailable
from muster.model.endpoint import SCHEMA, EndpointSet, ServiceKey
from muster.registry import names, redis_scripts, stored
from muster.registry.port import Beat, Claim
from muster.registry.redis_bell import Bell
from muster.registry.redis_connections import DEADLINE_SECONDS, cancellable, make_pool
from muster.registry.redis_url import RedisAddress, parse

CLAIMS_AT_ONCE = 200
"""Keys of one script: some milliseconds in which Redis does nothing else."""
REREAD_SECONDS = 2.0
"""How soon a watch reads without being told, give or take a quarter."""
RETRY_SECONDS = 0.2

_log = logging.getLogger(__name__)


def open_url(url: str) -> "RedisRegistry":
    """Open a Redis URL; nothing is contacted yet."""
    return RedisRegistry(parse(url))


class RedisRegistry:
    """One prefix of one database, seen by one event loop."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._client: Redis = Redis(connection_pool=make_pool(address))
        self._bell = Bell(self._client)
        self._prefix = address.prefix
        self._index, self._claims, self._beats = (f"{address.prefix}:{each}" for each in ("sets", "claims", "beats"))
        self._publish = self._client.register_script(redis_scripts.PUBLISH)
        self._claim = self._client.register_script(redis_scripts.CLAIM)
        self._link = self._client.register_script(redis_scripts.LINK)
        self._unlink = self._client.register_script(redis_scripts.UNLINK)
        self._beat = self._client.register_script(redis_scripts.BEAT)

    async def publish(self, key: ServiceKey, endpoints: EndpointSet) -> None:
        """Replace the set of ``key``. Raises ``Fenced`` when the stored one is as new or newer."""
        keys = [self._set_of(key), self._index]
        arguments: list[Any] = [SCHEMA, endpoints.to_json(), *endpoints.fence, _path(key)]
        verdict = await self._write(f"publish {key}", partial(self._publish, keys, arguments), keys[0])
        if verdict[0] == b"fenced":
            raise Fenced(f"publish {key} at {endpoints.fence}: the registry holds {verdict[1].decode()}")

    async def link(self, alias: ServiceKey, target: ServiceKey) -> None:
        """Let ``alias`` stand for ``target`` from now on."""
        at = self._alias_of(alias)
        arguments: list[Any] = [stored.ALIAS_SCHEMA, stored.alias_to_text(target)]
        await self._write(f"link {alias}", partial(self._link, [at], arguments), at)

    async def unlink(self, alias: ServiceKey) -> None:
        """Forget an alias; one that is not there is no error."""
        at, arguments = self._alias_of(alias), [stored.ALIAS_SCHEMA]
        await self._write(f"unlink {alias}", partial(self._unlink, [at], arguments), at)

    async def get(self, key: ServiceKey) -> EndpointSet | None:
        """Return the present set of a key or alias, ``None`` if there is none."""
        return (await self._resolve(key))[1]

    async def target(self, key: ServiceKey) -> ServiceKey | None:
        """Return the key whose set ``get`` would return, ``None`` if there is no set."""
        target, present = await self._resolve(key)
        return None if present is None else target

    async def watch(self, key: ServiceKey) -> AsyncIterator[EndpointSet]:
        """Yield the present set, then every newer one, for ever."""
        seen: tuple[ServiceKey, tuple[int, int]] | None = None
        target, trouble = key, ""
        async with self._bell.listener() as listener:
            while True:
                await self._bell.hear(listener, {self._set_of(key), self._alias_of(key), self._set_of(target)})
                listener.has_news.clear()
                try:
                    found, present = await self._resolve(key, seen[0] if seen else None)
                except RegistryUnavailable as error:
                    if trouble != str(error):
                        trouble = str(error)
                        _log.warning("watching %s: %s; still trying", key, error)
                    await asyncio.sleep(_about(RETRY_SECONDS))
                    continue
                trouble = ""
                if present is not None and (seen is None or found != seen[0] or present.fence > seen[1]):
                    seen = found, present.fence
                    yield present
                if found != target:
                    target = found  # it may have changed before we listened: read once more
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_about(REREAD_SECONDS)):  # wait_for of 3.11 may lose a cancellation
                        await listener.has_news.wait()

    async def keys(self) -> Sequence[ServiceKey]:
        """Return all keys that hold a set (no aliases), in order."""
        paths = await self._call("list the keys", lambda: self._client.smembers(self._index))
        indexed = [key for path in paths if (key := _key(path)) is not None]
        found = await self._existing(indexed) if indexed else []
        return sorted(found, key=lambda key: (key.account, key.service, key.port))

    async def beat(self, publisher: str, beat: Beat) -> Mapping[str, Beat]:
        """Record a heartbeat; return every publisher's last one as it was just before."""
        keys, arguments = [self._beats], [publisher, stored.beat_to_text(beat)]
        flat = await self._call("beat", lambda: self._beat(keys, arguments))
        return _beats(dict(zip(flat[::2], flat[1::2], strict=True)))

    async def beats(self) -> Mapping[str, Beat]:
        """Return every publisher's last heartbeat."""
        return _beats(await self._call("read the heartbeats", lambda: self._client.hgetall(self._beats)))

    async def retire(self, publisher: str) -> None:
        """Forget a publisher's heartbeat."""
        await self._call("retire", lambda: self._client.hdel(self._beats, publisher))

    async def claim(
        self, keys: Collection[ServiceKey], publisher: str, *, over: Collection[str], floor: int
    ) -> Mapping[ServiceKey, Claim]:
        """Give ``publisher`` what nobody, itself, or one of ``over`` has; return whose each key is now."""
        answer: dict[ServiceKey, Claim] = {}
        wanted = list(keys)
        for start in range(0, len(wanted), CLAIMS_AT_ONCE):
            some = wanted[start : start + CLAIMS_AT_ONCE]
            asked: list[Any] = [self._claims, *(self._set_of(key) for key in some)]
            arguments: list[Any] = [SCHEMA, publisher, floor, len(over), *over, *(_path(key) for key in some)]
            texts = await self._call("claim", partial(self._claim, asked, arguments))
            answer |= _claims(zip(some, texts, strict=True))
        return answer

    async def claims(self) -> Mapping[ServiceKey, Claim]:
        """Return whose each key is."""
        texts = await self._call("read the claims", lambda: self._client.hgetall(self._claims))
        return _claims((_key(path), text) for path, text in texts.items())

    async def aclose(self) -> None:
        """Let go of the registry; what was published stays."""
        with contextlib.suppress(RedisError, OSError):
            await self._client.aclose()
            await self._client.connection_pool.disconnect()

    def _set_of(self, key: ServiceKey) -> str:
        return f"{self._prefix}:set:{_path(key)}"

    def _alias_of(self, key: ServiceKey) -> str:
        return f"{self._prefix}:alias:{_path(key)}"

    async def _existing(self, keys: Sequence[ServiceKey]) -> Sequence[ServiceKey]:
        """Return those of the index that have a set: people and eviction remove the one without the other."""
        count = await self._call("list the keys", lambda: self._client.exists(*map(self._set_of, keys)))
        if count == len(keys):
            return keys

        async def ask() -> Any:
            async with self._client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.exists(self._set_of(key))
                return await pipeline.execute()

        exist = await self._call("list the keys", ask)
        return [key for key, does_exist in zip(keys, exist, strict=True) if does_exist]

    async def _resolve(self, key: ServiceKey, last: ServiceKey | None = None) -> tuple[ServiceKey, EndpointSet | None]:
        """Return the key that ``key`` stands for, ``last`` if it stands for none, and the set found there."""
        present, text = await self._read(self._set_of(key), self._alias_of(key))
        if present is not None or (text is None and last is None):
            return key, present
        with _readable(self._alias_of(key)):
            target = last or key if text is None else stored.alias_from_text(text)
        return target, (await self._read(self._set_of(target)))[0]

    async def _read(self, at: str, *also: str) -> tuple[EndpointSet | None, bytes | None]:
        """Read a set, and one other text with it. What is no string is foreign, though MGET takes it for missing."""

        async def ask() -> Any:
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.mget(at, *also)
                pipeline.type(at)
                return await pipeline.execute()

        (text, *others), kind = await self._call(f"read {at}", ask)
        if text is None:
            if kind not in (b"none", b"string"):  # a string: it came between the two
                raise RegistryUnavailable(f"read {at}: foreign data: a {kind.decode()}")
            return None, others[0] if others else None
        with _readable(at):
            return EndpointSet.from_json(text), None

    async def _write(self, attempt: str, make: Callable[[], Any], at: str) -> Sequence[Any]:
        verdict: Sequence[Any] = await self._call(attempt, make)
        if verdict[0] == b"foreign":
            raise RegistryUnavailable(f"{attempt}: foreign data under {at}: {verdict[1].decode(errors='replace')}")
        return verdict

    async def _call(self, attempt: str, make: Callable[[], Any]) -> Any:
        try:
            with cancellable():
                async with asyncio.timeout(DEADLINE_SECONDS):
                    call: Awaitable[Any] = make()
                    return await call
        except TimeoutError as error:
            raise RegistryUnavailable(f"{attempt}: no answer of {self._address} in {DEADLINE_SECONDS:g} s") from error
        except (RedisError, OSError) as error:
            raise RegistryUnavailable(f"{attempt}: {self._address}: {error}") from error


def _beats(texts: Mapping[bytes, bytes]) -> Mapping[str, Beat]:
    beats = {}
    for publisher, text in texts.items():
        try:
            beats[publisher.decode(errors="replace")] = stored.beat_from_text(text)
        except InvalidSpec as error:
            _log.debug("heartbeat of %r: foreign data: %s", publisher, error)
    return beats


def _claims(texts: Iterable[tuple[ServiceKey | None, bytes]]) -> Mapping[ServiceKey, Claim]:
    claims = {}
    for key, text in texts:
        if key is not None and text:
            try:
                claims[key] = stored.claim_from_text(text)
            except InvalidSpec as error:
                _log.debug("claim of %s: foreign data: %s", key, error)
    return claims


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except InvalidSpec as error:
        raise RegistryUnavailable(f"read {what}: foreign data: {error}") from error


def _path(key: ServiceKey) -> str:
    return names.relative_path(key).removesuffix(".json")


def _key(path: bytes) -> ServiceKey | None:
    account, _, rest = path.decode(errors="replace").partition("/")
    service, _, port = rest.partition("/")
    return names.key_of(account, service, f"{port}.json") if account and service else None


def _about(seconds: float) -> float:
    return seconds * random.uniform(0.75, 1.25)  # noqa: S311 - only so that not all come at once
