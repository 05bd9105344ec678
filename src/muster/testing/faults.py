"""Port wrappers that die: where a ``kill -9`` can strike, made into something a test can aim at.

A process can only be seen from outside at its calls to ports. ``Life`` is one life of a process; its wrappers count
every call, and the k-th raises ``Crash``, either before the call took effect or after. From then on the life is over:
every further call crashes too, so nothing that a dying task still tries (a ``finally`` block, say) can reach the world.

``Trouble`` is what goes wrong between living processes: calls that take long, answers that are lost on the way.
"""

import asyncio
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from muster.engine.port import Capabilities, ContainerRun, Engine, ExecSession, Observation, Ref, StopOrder
from muster.errors import EngineUnavailable, RegistryUnavailable
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.model.ids import AccountId, ContainerId, MachineId
from muster.model.image import HeldImage, ImageOrder, ImageProgress
from muster.model.run import Disk, ExecOrder
from muster.registry.port import Beat, Claim, Registry
from muster.store.port import Changes, Store, Transaction
from muster.testing.clock import Outstanding

T = TypeVar("T")


class Crash(BaseException):
    """The process is gone."""


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """Die at the ``call``-th call from now (1 is the next), before or after it took effect."""

    call: int
    is_after: bool


class Life:
    """One life of a process, from start to crash."""

    def __init__(self, outstanding: Outstanding) -> None:
        self._outstanding = outstanding
        self._countdown: int | None = None
        self._is_after = False
        self.is_over = False

    def doom(self, point: CrashPoint) -> None:
        """Let it die at a call to come."""
        self._countdown, self._is_after = point.call, point.is_after

    def end(self) -> None:
        """Let every further call crash."""
        self.is_over = True

    async def call(self, make: Callable[[], Awaitable[T]]) -> T:
        """Make one call, or die."""
        dies = self._counts_down()
        if self.is_over or (dies and not self._is_after):
            self._die()
        with self._outstanding.call():
            result = await make()
        if self.is_over or dies:
            self._die()
        return result

    def _counts_down(self) -> bool:
        if self._countdown is None:
            return False
        self._countdown -= 1
        return self._countdown == 0

    def _die(self) -> None:
        self.is_over = True
        raise Crash


@dataclass(slots=True)
class Trouble:
    """What goes wrong at calls without killing anybody; it outlasts a life.

    ``*_answers_lost``: so many calls to come take effect, but fail for the caller. ``engine_seconds``: how long an
    engine call takes, half of it before and half after it takes effect, so that what it saw is old news.
    """

    engine_answers_lost: int = 0
    registry_answers_lost: int = 0
    engine_seconds: float = 0.0

    def heal(self) -> None:
        """Let every call be quick and answered."""
        self.engine_answers_lost = self.registry_answers_lost = 0
        self.engine_seconds = 0.0


class MortalStore:
    """A store as one life sees it: its listeners die with it."""

    def __init__(self, store: Store, life: Life) -> None:
        self._store = store
        self._life = life
        self._listeners: list[Callable[[Changes], None]] = []
        store.on_commit(self._tell)

    async def read(self, work: Callable[[Transaction], T]) -> T:  # noqa: D102
        return await self._life.call(lambda: self._store.read(work))

    async def write(self, work: Callable[[Transaction], T]) -> T:  # noqa: D102
        return await self._life.call(lambda: self._store.write(work))

    def on_commit(self, listener: Callable[[Changes], None]) -> None:  # noqa: D102
        self._listeners.append(listener)

    async def aclose(self) -> None:  # noqa: D102
        self._listeners.clear()

    def _tell(self, changes: Changes) -> None:
        if not self._life.is_over:
            for listener in self._listeners:
                listener(changes)


class MortalEngine:
    """An engine as one life sees it."""

    def __init__(self, engine: Engine, life: Life, trouble: Trouble) -> None:
        self._engine = engine
        self._life = life
        self._trouble = trouble

    @property
    def capabilities(self) -> Capabilities:  # noqa: D102
        return self._engine.capabilities

    async def create(self, run: ContainerRun) -> Observation:  # noqa: D102
        return await self._call(lambda: self._engine.create(run))

    async def start(self, ref: Ref) -> Observation:  # noqa: D102
        return await self._call(lambda: self._engine.start(ref))

    async def stop(self, ref: Ref, order: StopOrder) -> Observation:  # noqa: D102
        return await self._call(lambda: self._engine.stop(ref, order))

    async def remove(self, ref: Ref) -> None:  # noqa: D102
        await self._call(lambda: self._engine.remove(ref))

    async def observe(self, ref: Ref) -> Observation:  # noqa: D102
        return await self._call(lambda: self._engine.observe(ref))

    async def observe_all(self, machine_id: MachineId) -> Sequence[Observation]:  # noqa: D102
        return await self._call(lambda: self._engine.observe_all(machine_id))

    def watch(self) -> AsyncIterator[ContainerId]:  # noqa: D102
        return self._engine.watch()

    async def prepare(self, machine_id: MachineId, order: ImageOrder) -> ImageProgress:  # noqa: D102
        return await self._call(lambda: self._engine.prepare(machine_id, order))

    async def images(self, machine_id: MachineId) -> Sequence[HeldImage]:  # noqa: D102
        return await self._call(lambda: self._engine.images(machine_id))

    async def save(self, ref: Ref, reference: str) -> HeldImage:  # noqa: D102
        return await self._call(lambda: self._engine.save(ref, reference))

    async def disk(self, machine_id: MachineId) -> Disk:  # noqa: D102
        return await self._call(lambda: self._engine.disk(machine_id))

    async def execute(self, ref: Ref, order: ExecOrder) -> ExecSession:  # noqa: D102
        return await self._call(lambda: self._engine.execute(ref, order))

    async def sftp(self, ref: Ref) -> ExecSession:  # noqa: D102
        return await self._call(lambda: self._engine.sftp(ref))

    async def dial(self, ref: Ref, host: str, port: int) -> ExecSession:  # noqa: D102
        return await self._call(lambda: self._engine.dial(ref, host, port))

    async def host_address(self, machine_id: MachineId, account_id: AccountId) -> str:  # noqa: D102
        return await self._call(lambda: self._engine.host_address(machine_id, account_id))

    def logs(  # noqa: D102
        self, ref: Ref, *, tail: int | None = None, since: datetime.datetime | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        return self._engine.logs(ref, tail=tail, since=since, follow=follow)

    async def aclose(self) -> None:  # noqa: D102
        await self._engine.aclose()

    async def _call(self, make: Callable[[], Awaitable[T]]) -> T:
        half = self._trouble.engine_seconds / 2
        if half:
            await asyncio.sleep(half)
        result = await self._life.call(make)
        if half:
            await asyncio.sleep(half)
        if self._trouble.engine_answers_lost:
            self._trouble.engine_answers_lost -= 1
            raise EngineUnavailable("the engine's answer was lost")
        return result


class MortalRegistry:
    """A registry as one life sees it."""

    def __init__(self, registry: Registry, life: Life, trouble: Trouble) -> None:
        self._registry = registry
        self._life = life
        self._trouble = trouble

    async def publish(self, key: ServiceKey, endpoints: EndpointSet) -> None:  # noqa: D102
        await self._call(lambda: self._registry.publish(key, endpoints))

    async def link(self, alias: ServiceKey, target: ServiceKey) -> None:  # noqa: D102
        await self._call(lambda: self._registry.link(alias, target))

    async def unlink(self, alias: ServiceKey) -> None:  # noqa: D102
        await self._call(lambda: self._registry.unlink(alias))

    async def get(self, key: ServiceKey) -> EndpointSet | None:  # noqa: D102
        return await self._call(lambda: self._registry.get(key))

    async def target(self, key: ServiceKey) -> ServiceKey | None:  # noqa: D102
        return await self._call(lambda: self._registry.target(key))

    def watch(self, key: ServiceKey) -> AsyncIterator[EndpointSet]:  # noqa: D102
        return self._registry.watch(key)

    async def keys(self) -> Sequence[ServiceKey]:  # noqa: D102
        return await self._call(self._registry.keys)

    async def beat(self, publisher: str, beat: Beat) -> Mapping[str, Beat]:  # noqa: D102
        return await self._call(lambda: self._registry.beat(publisher, beat))

    async def beats(self) -> Mapping[str, Beat]:  # noqa: D102
        return await self._call(self._registry.beats)

    async def retire(self, publisher: str) -> None:  # noqa: D102
        await self._call(lambda: self._registry.retire(publisher))

    async def claim(  # noqa: D102
        self, keys: Collection[ServiceKey], publisher: str, *, over: Collection[str], floor: int
    ) -> Mapping[ServiceKey, Claim]:
        return await self._call(lambda: self._registry.claim(keys, publisher, over=over, floor=floor))

    async def claims(self) -> Mapping[ServiceKey, Claim]:  # noqa: D102
        return await self._call(self._registry.claims)

    async def aclose(self) -> None:  # noqa: D102
        await asyncio.sleep(0)

    async def _call(self, make: Callable[[], Awaitable[T]]) -> T:
        result = await self._life.call(make)
        if self._trouble.registry_answers_lost:
            self._trouble.registry_answers_lost -= 1
            raise RegistryUnavailable("the registry's answer was lost")
        return result
