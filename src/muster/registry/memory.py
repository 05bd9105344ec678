"""A registry inside one process: ``memory://NAME`` is the same registry wherever the process opens it.

It serves tests, and programs that publish and balance in one process. The state is guarded by a lock and its watchers
are woken on their own event loops, because the SDK's sync side watches from a thread of its own. A handle holds
nothing, so closing one changes nothing; ``Memory`` states live as long as the process, like any module global, and
tests choose names of their own.
"""

import asyncio
import threading
import urllib.parse
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from muster.errors import Fenced, InvalidSpec
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry.claiming import claimed
from muster.registry.port import Beat, Claim


@dataclass(eq=False, slots=True)
class _Watcher:
    """Somebody who waits, in some event loop."""

    loop: asyncio.AbstractEventLoop
    woken: asyncio.Event


@dataclass(slots=True)
class Memory:
    """What all handles of one name share."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    sets: dict[ServiceKey, EndpointSet] = field(default_factory=dict)
    aliases: dict[ServiceKey, ServiceKey] = field(default_factory=dict)
    last_targets: dict[ServiceKey, ServiceKey] = field(default_factory=dict)
    """Of aliases, forgotten ones as well: who watches them stays."""
    watchers: dict[ServiceKey, list[_Watcher]] = field(default_factory=dict)
    beats: dict[str, Beat] = field(default_factory=dict)
    claims: dict[ServiceKey, Claim] = field(default_factory=dict)

    def resolve(self, key: ServiceKey, last: ServiceKey | None = None) -> tuple[ServiceKey, EndpointSet | None]:
        """Return the key that ``key`` stands for, ``last`` if it stands for none, and the set found there."""
        target = key if key in self.sets else self.aliases.get(key, last or key)
        return target, self.sets.get(target)

    def wake(self, key: ServiceKey) -> None:
        """Let everybody look again who may see a change of ``key``."""
        seen_by = [key, *(alias for alias, target in self.last_targets.items() if target == key)]
        for watcher in [each for name in seen_by for each in self.watchers.get(name, ())]:
            if not watcher.loop.is_closed():
                watcher.loop.call_soon_threadsafe(watcher.woken.set)


_memories: dict[str, Memory] = {}
_memories_lock = threading.Lock()


def open_url(url: str) -> "MemoryRegistry":
    """Open ``memory://NAME``; the name may be empty."""
    parts = urllib.parse.urlsplit(url)
    if parts.path not in ("", "/"):
        raise InvalidSpec("registry", f"{url!r}: memory://NAME has no path")
    with _memories_lock:
        return MemoryRegistry(_memories.setdefault(parts.netloc, Memory()))


class MemoryRegistry:
    """A handle on a ``Memory``."""

    def __init__(self, memory: Memory | None = None) -> None:
        self._memory = memory or Memory()

    async def publish(self, key: ServiceKey, endpoints: EndpointSet) -> None:
        """Replace the set of ``key``. Raises ``Fenced`` when the stored one is as new or newer."""
        with self._memory.lock:
            stored = self._memory.sets.get(key)
            if stored is not None and stored.fence >= endpoints.fence:
                raise Fenced(f"publish {key} at {endpoints.fence}: the registry holds {stored.fence}")
            self._memory.sets[key] = endpoints
            self._memory.wake(key)

    async def link(self, alias: ServiceKey, target: ServiceKey) -> None:
        """Let ``alias`` stand for ``target`` from now on."""
        with self._memory.lock:
            self._memory.aliases[alias] = self._memory.last_targets[alias] = target
            self._memory.wake(alias)

    async def unlink(self, alias: ServiceKey) -> None:
        """Forget an alias; one that is not there is no error."""
        with self._memory.lock:
            self._memory.aliases.pop(alias, None)

    async def get(self, key: ServiceKey) -> EndpointSet | None:
        """Return the present set of a key or alias, ``None`` if there is none."""
        with self._memory.lock:
            return self._memory.resolve(key)[1]

    async def target(self, key: ServiceKey) -> ServiceKey | None:
        """Return the key whose set ``get`` would return, ``None`` if there is no set."""
        with self._memory.lock:
            target, present = self._memory.resolve(key)
            return None if present is None else target

    async def watch(self, key: ServiceKey) -> AsyncIterator[EndpointSet]:
        """Yield the present set, then every newer one, for ever."""
        watcher = _Watcher(asyncio.get_running_loop(), asyncio.Event())
        with self._memory.lock:
            self._memory.watchers.setdefault(key, []).append(watcher)
        seen: tuple[ServiceKey, tuple[int, int]] | None = None
        try:
            while True:
                watcher.woken.clear()
                with self._memory.lock:
                    target, present = self._memory.resolve(key, seen[0] if seen else None)
                if present is not None and (target, present.fence) != seen:
                    seen = target, present.fence
                    yield present
                else:
                    await watcher.woken.wait()
        finally:
            with self._memory.lock:
                remaining = self._memory.watchers[key]
                remaining.remove(watcher)
                if not remaining:
                    del self._memory.watchers[key]

    async def keys(self) -> Sequence[ServiceKey]:
        """Return all keys that hold a set (no aliases), in order."""
        with self._memory.lock:
            return sorted(self._memory.sets, key=lambda key: (key.account, key.service, key.port))

    async def beat(self, publisher: str, beat: Beat) -> Mapping[str, Beat]:
        """Record a heartbeat; return every publisher's last one as it was just before."""
        with self._memory.lock:
            before = dict(self._memory.beats)
            self._memory.beats[publisher] = beat
            return before

    async def beats(self) -> Mapping[str, Beat]:
        """Return every publisher's last heartbeat."""
        with self._memory.lock:
            return dict(self._memory.beats)

    async def retire(self, publisher: str) -> None:
        """Forget a publisher's heartbeat."""
        with self._memory.lock:
            self._memory.beats.pop(publisher, None)

    async def claim(
        self, keys: Collection[ServiceKey], publisher: str, *, over: Collection[str], floor: int
    ) -> Mapping[ServiceKey, Claim]:
        """Give ``publisher`` what nobody, itself, or one of ``over`` has; return whose each key is now."""
        with self._memory.lock:
            for key in keys:
                self._memory.claims[key] = claimed(
                    self._memory.claims.get(key), self._memory.sets.get(key), publisher, over=over, floor=floor
                )
            return {key: self._memory.claims[key] for key in keys}

    async def claims(self) -> Mapping[ServiceKey, Claim]:
        """Return whose each key is."""
        with self._memory.lock:
            return dict(self._memory.claims)

    async def aclose(self) -> None:
        """Let go of the registry; what was published stays."""
