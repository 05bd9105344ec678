"""A world for watchers in virtual time: a truth with a version, a registry, processes that are paused and killed.

Whatever a process does outside itself passes its gate: each call to a feed, to the registry or to the clock waits
there while the process is stopped, before it takes effect and again before its answer is heard. So a pause can strike
at every await, as SIGSTOP does.

Each change of the truth raises its version, which every state of the feed carries in its first endpoint's url. What is
stored must never go back to an older version; that is asserted at every write (``Store.publish``).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

from muster.discovery.watcher import Watcher
from muster.errors import FeedError, RegistryUnavailable
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from muster.model.event import Cursor
from muster.model.feed import ChangeBatch, Listing, ServiceState
from muster.model.ids import DeploymentId
from muster.registry.memory import Memory, MemoryRegistry
from muster.registry.port import Beat, Claim, Registry
from muster.testing.clock import FakeClock, VirtualLoop

T = TypeVar("T")
LONGEST_CALL_SECONDS = 0.005


class Truth:
    """Which containers each deployment has; ``version`` counts the changes."""

    def __init__(self, clock: FakeClock, *deployments: str) -> None:
        self.clock = clock
        self.containers: dict[str, frozenset[str]] = dict.fromkeys(deployments, frozenset())
        self.version = 0
        self.died_at: dict[str, float] = {}
        self.is_readable = True
        self._listeners: list[asyncio.Event] = []
        self._changed: list[str] = []

    def put(self, deployment: str, *containers: str) -> None:
        """Let a deployment have exactly these containers from now on."""
        gone = self.containers.get(deployment, frozenset()) - set(containers)
        self.died_at |= dict.fromkeys(gone, self.clock.monotonic())
        self.containers[deployment] = frozenset(containers)
        self._tell(deployment)

    def delete(self, deployment: str) -> None:
        """Let a deployment be gone."""
        self.put(deployment)
        del self.containers[deployment]

    def _tell(self, deployment: str) -> None:
        self.version += 1
        self._changed.append(deployment)
        for listener in self._listeners:
            listener.set()

    def state(self, deployment: str) -> ServiceState:
        """Return a deployment as it is now."""
        key = ServiceKey("admin", deployment)
        found = tuple(
            Endpoint(each, f"http://127.0.0.1:{self.version}") for each in sorted(self.containers.get(deployment, ()))
        )
        return ServiceState(DeploymentId(deployment), {key: found}, {})

    async def changes(self, after: int) -> AsyncIterator[tuple[set[str], int]]:
        """Yield which deployments changed, each as soon as it does."""
        listener = asyncio.Event()
        self._listeners.append(listener)
        try:
            while True:
                listener.clear()
                if len(self._changed) > after:
                    batch, after = set(self._changed[after:]), len(self._changed)
                    yield batch, after
                else:
                    await listener.wait()
        finally:
            self._listeners.remove(listener)


class Process:
    """One watcher's process: it runs, is stopped, goes on, dies."""

    def __init__(self, name: str, truth: Truth, memory: Memory, rng: random.Random) -> None:
        self.name = name
        self._rng = rng
        self._truth = truth
        self._memory = memory
        self._goes = asyncio.Event()
        self._goes.set()
        self.can_read = True
        self.can_write = True
        self.stops_before_publishing = False
        self.stops_before_claiming = False
        self._task: asyncio.Task[None] | None = None
        self._lives = 0

    def start(self) -> None:
        """Begin a life."""
        self._lives += 1
        self._goes.set()
        clock = GatedClock(self)
        watcher = Watcher(
            GatedFeed(self, self._truth),
            GatedRegistry(self, Store(self._memory)),
            clock,
            publisher=f"world#{self.name}{self._lives}",
        )
        self._task = asyncio.create_task(watcher.run())

    async def kill(self) -> None:
        """End this life at whatever it is doing: nothing that it still tries takes effect."""
        if self._task is not None:
            self._goes.clear()
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None

    def stop(self) -> None:
        """Stop it as SIGSTOP does."""
        self._goes.clear()

    def go_on(self) -> None:
        """Let it go on where it was stopped."""
        self._goes.set()

    @property
    def is_well(self) -> bool:
        """Whether it runs, and can read and write."""
        return self._task is not None and self._goes.is_set() and self.can_read and self.can_write

    async def gate(self) -> None:
        """Wait while this process is stopped."""
        await self._goes.wait()

    async def call(self, make: Callable[[], Awaitable[T]]) -> T:
        """Make one call to the outside, which takes a moment before and after its effect."""
        await self.gate()
        await asyncio.sleep(self._rng.random() * LONGEST_CALL_SECONDS)
        answer = await make()
        await asyncio.sleep(self._rng.random() * LONGEST_CALL_SECONDS)
        await self.gate()
        return answer


class GatedClock(FakeClock):
    """The process's clock: time goes on while it is stopped, but it does not notice."""

    def __init__(self, process: Process) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        super().__init__(loop)
        self._process = process

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        await self._process.gate()


class GatedFeed:
    """The truth as one process reads it."""

    def __init__(self, process: Process, truth: Truth) -> None:
        self._process = process
        self._truth = truth

    async def services(self) -> Listing:
        async def read() -> Listing:
            self._check()
            states = [self._truth.state(each) for each in sorted(self._truth.containers)]
            return Listing(states, Cursor(len(self._truth._changed)))

        return await self._process.call(read)

    async def service(self, deployment_id: DeploymentId) -> ServiceState:
        async def read() -> ServiceState:
            self._check()
            return self._truth.state(deployment_id)

        return await self._process.call(read)

    async def changes(self, cursor: Cursor) -> AsyncIterator[ChangeBatch]:
        async for changed, after in self._truth.changes(cursor):
            await self._process.gate()
            self._check()
            yield ChangeBatch(frozenset(DeploymentId(each) for each in changed), Cursor(after))

    def _check(self) -> None:
        if not (self._process.can_read and self._truth.is_readable):
            raise FeedError("the API does not answer")


class Store(MemoryRegistry):
    """The registry itself: asserts at every write that nothing older replaces anything newer."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self._held = memory

    async def publish(self, key: ServiceKey, endpoints: EndpointSet) -> None:
        before = self._held.sets.get(key)
        await super().publish(key, endpoints)
        assert before is None or version(before) <= version(endpoints) or not endpoints.endpoints, (
            f"{key}: version {version(endpoints)} replaced {version(before)}"
        )


class GatedRegistry:
    """The registry as one process uses it."""

    def __init__(self, process: Process, registry: Registry) -> None:
        self._process = process
        self._registry = registry

    async def _call(self, make: Callable[[], Awaitable[T]]) -> T:
        async def act() -> T:
            if not self._process.can_write:
                raise RegistryUnavailable("the registry does not answer")
            return await make()

        return await self._process.call(act)

    async def publish(self, key: ServiceKey, endpoints: EndpointSet) -> None:
        if self._process.stops_before_publishing:
            self._process.stops_before_publishing = False
            self._process.stop()
        await self._call(lambda: self._registry.publish(key, endpoints))

    async def link(self, alias: ServiceKey, target: ServiceKey) -> None:
        await self._call(lambda: self._registry.link(alias, target))

    async def unlink(self, alias: ServiceKey) -> None:
        await self._call(lambda: self._registry.unlink(alias))

    async def get(self, key: ServiceKey) -> EndpointSet | None:
        return await self._call(lambda: self._registry.get(key))

    async def target(self, key: ServiceKey) -> ServiceKey | None:
        return await self._call(lambda: self._registry.target(key))

    def watch(self, key: ServiceKey) -> AsyncIterator[EndpointSet]:
        return self._registry.watch(key)

    async def keys(self) -> Sequence[ServiceKey]:
        return await self._call(self._registry.keys)

    async def beat(self, publisher: str, beat: Beat) -> Mapping[str, Beat]:
        return await self._call(lambda: self._registry.beat(publisher, beat))

    async def beats(self) -> Mapping[str, Beat]:
        return await self._call(self._registry.beats)

    async def retire(self, publisher: str) -> None:
        await self._call(lambda: self._registry.retire(publisher))

    async def claim(
        self, keys: Collection[ServiceKey], publisher: str, *, over: Collection[str], floor: int
    ) -> Mapping[ServiceKey, Claim]:
        return await self._call(lambda: self._registry.claim(keys, publisher, over=over, floor=floor))

    async def claims(self) -> Mapping[ServiceKey, Claim]:
        if self._process.stops_before_claiming:
            self._process.stops_before_claiming = False
            self._process.stop()
        return await self._call(self._registry.claims)

    async def aclose(self) -> None:
        await self._registry.aclose()


def version(found: EndpointSet) -> int:
    """Return the version of the truth that a set was read from; an empty one does not tell."""
    return max((int(each.url.rpartition(":")[2]) for each in found.endpoints), default=0)
