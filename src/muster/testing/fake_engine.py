"""A container engine without containers: the engine port over a ``FakeWorld`` in memory.

The world is what would outlive the control plane: objects, their runs, machines that answer or do not. A
``FakeEngine`` is one client of it; dropping one and making another is what a crash of the control plane looks like.
Tests change the world behind the client's back (``finish``, ``vanish``, ``cut``, ``isolate``, ``destroy``, ``reboot``,
``reject_image``) and ask it what a port cannot tell: every run that was ever started, and who holds which GPU now.

A command is understood as far as a test needs: statements joined by ``;``, ``&&`` or a new line, of ``echo TEXT``,
``sleep SECONDS``, ``sleep infinity``, ``exit CODE``, ``true``, ``false`` and ``trap '' TERM``. Whatever else it says
is taken for a service: it runs until it is stopped. Output appears when the run starts. A run that is told to stop
ends with 143 once ``cmd_before_shutdown`` is through, or with 137 after ``term_seconds`` if it ignores TERM.

Time is the clock's alone: nothing here has a task or a thread of its own. What is due is settled whenever somebody
looks, and a watcher sleeps by the clock until the next end is due. Every call gives way to other tasks once before it
does anything, so that interleavings happen.

Refused: a latency model (wrap the port instead), and addresses that answer (probes in a harness are given).
"""

import asyncio
import datetime
import functools
import hashlib
import heapq
import itertools
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from muster.clock import Clock
from muster.engine.inbox import Inbox
from muster.engine.port import Capabilities, ContainerRun, ExecSession, Observation, Phase, Ref, StopOrder
from muster.errors import EngineRejected, EngineUnavailable, MachineUnreachable
from muster.model.container import Address, Reason
from muster.model.deployment import PORTS
from muster.model.ids import AccountId, ContainerId, MachineId
from muster.model.image import HeldImage, ImageOrder, ImageProgress
from muster.model.quantity import GIB
from muster.model.reference import is_saved, saved_by
from muster.model.run import Disk, ExecOrder

STALE_GENERATION = "stale_generation"
_FIRST_PORT, _PORT_COUNT = 20_000, 45_000


@dataclass(frozen=True, slots=True)
class StartedRun:
    """One start of a command: the world remembers all of them, also of objects that are gone."""

    run: ContainerRun
    started_at: datetime.datetime


@dataclass(frozen=True, slots=True)
class _Script:
    """What a command will do when nobody disturbs it."""

    seconds: float
    exit_code: int
    output: bytes
    ignores_term: bool


@dataclass(slots=True, eq=False)
class _Object:
    """One container's object. ``due`` is when its run ends, by the clock's monotonic time."""

    installation: str
    run: ContainerRun
    seen: Observation
    script: _Script
    is_stopping: bool = False
    due: float = math.inf
    exit_code: int = 0
    output: list[bytes] = field(default_factory=list)
    disk: int = 0


class FakeWorld:
    """Machines, and what runs on them. Everything a test may do to it, or ask it, is a plain call.

    Images appear on a machine ``pull_seconds[reference]`` after they were first asked for (at once where that says
    nothing); ``pulls`` counts how often each was fetched by each machine. ``disk_of`` names the files that an object
    has: they are new with a fresh object and go along when it is taken over.

    ``are_hints_lost``: set it, and watchers hear nothing; only a periodic ``observe_all`` finds what happened.
    ``are_take_overs_refused``: set it, and nothing can be made of an ended container any more.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.are_hints_lost = False
        self.are_take_overs_refused = False
        self.pull_seconds: dict[str, float] = {}
        self.pulls: Counter[tuple[MachineId, str]] = Counter()
        self.disk = Disk(total_bytes=1000 * GIB, free_bytes=800 * GIB)
        self._held: dict[MachineId, dict[str, HeldImage]] = {}
        self._pull_due: dict[tuple[MachineId, str], float] = {}
        self._disks = itertools.count(1)
        self._objects: dict[tuple[str, ContainerId], _Object] = {}
        self._latest: dict[ContainerId, _Object] = {}
        self._on_machine: dict[tuple[str, MachineId], dict[ContainerId, _Object]] = {}
        self._starts: dict[ContainerId, list[StartedRun]] = {}
        self._cut: set[MachineId] = set()
        self._isolated: set[MachineId] = set()
        self._rejected_images: dict[str, EngineRejected] = {}
        self._due: list[tuple[float, int, _Object]] = []
        self._numbers = itertools.count()
        self._ports = itertools.count()
        self._inboxes: set[Inbox] = set()

    # What a test may ask.

    def starts(self, container_id: ContainerId) -> Sequence[StartedRun]:
        """Return every run ever started for this id, in order; more than one per generation is a bug."""
        return tuple(self._starts.get(container_id, ()))

    @property
    def started_ids(self) -> Sequence[ContainerId]:
        """Return the ids of all containers that were ever started, in order of their first start."""
        return tuple(self._starts)

    def running(self, machine_id: MachineId | None = None) -> Sequence[ContainerId]:
        """Return what runs now, of one machine or of all, reachable or not."""
        self.settle()
        return tuple(
            thing.run.ref.container_id
            for thing in self._objects.values()
            if thing.seen.phase is Phase.RUNNING and machine_id in (None, thing.run.ref.machine_id)
        )

    def gpu_holders(self) -> Mapping[tuple[MachineId, int], Sequence[ContainerId]]:
        """Return who uses each GPU right now; more than one holder is a double claim."""
        self.settle()
        holders: dict[tuple[MachineId, int], list[ContainerId]] = {}
        for thing in self._objects.values():
            if thing.seen.phase is Phase.RUNNING:
                for index in thing.run.gpu_indices:
                    key = (thing.run.ref.machine_id, index)
                    holders.setdefault(key, []).append(thing.run.ref.container_id)
        return holders

    def look(self, container_id: ContainerId) -> Observation | None:
        """Return what is there, reachable or not; ``None`` when there is no such object."""
        self.settle()
        thing = self._find(container_id)
        return thing.seen if thing else None

    def run_of(self, container_id: ContainerId) -> ContainerRun | None:
        """Return the order that the object was created from; ``None`` when there is no such object."""
        thing = self._find(container_id)
        return thing.run if thing else None

    def will_end(self, container_id: ContainerId) -> bool:
        """Tell whether what runs there ends by itself."""
        thing = self._find(container_id)
        return thing is not None and thing.seen.phase is Phase.RUNNING and thing.due < math.inf

    def disk_of(self, container_id: ContainerId) -> int | None:
        """Return the number of the files that an object has; no two objects ever have the same."""
        thing = self._find(container_id)
        return thing.disk if thing else None

    @property
    def object_ids(self) -> Sequence[ContainerId]:
        """Return the ids of all objects, in whatever phase."""
        return tuple(container_id for _, container_id in self._objects)

    @property
    def object_count(self) -> int:
        """How many objects there are, in whatever phase."""
        return len(self._objects)

    # What a test may do.

    def finish(
        self, container_id: ContainerId, exit_code: int = 0, *, reason: Reason | None = None, message: str = ""
    ) -> None:
        """Let the command of a running container end now; anything else is a mistake in the test."""
        self.settle()
        thing = self._find(container_id)
        assert thing is not None, f"no object {container_id}"
        assert thing.seen.phase is Phase.RUNNING, f"{container_id} is {thing.seen.phase}, not running"
        self._end(thing, exit_code, self.clock.now(), reason, message)

    def write(self, container_id: ContainerId, output: bytes) -> None:
        """Let a container write output."""
        thing = self._find(container_id)
        assert thing is not None, f"no object {container_id}"
        thing.output.append(output)
        self._hint(thing)

    def vanish(self, container_id: ContainerId) -> None:
        """Remove an object, running or not, as somebody with a shell on the host would."""
        thing = self._find(container_id)
        if thing is not None:
            self._drop(thing)

    def cut(self, machine_id: MachineId) -> None:
        """Take a machine's engine down: calls raise ``EngineUnavailable``, what runs there runs on."""
        self._cut.add(machine_id)

    def isolate(self, machine_id: MachineId) -> None:
        """Take a host off the network: calls raise ``MachineUnreachable``, what runs there runs on unseen."""
        self._isolated.add(machine_id)

    def destroy(self, machine_id: MachineId) -> None:
        """Take a host off the network with everything on it: if it ever returns, it is empty."""
        for thing in [item for item in self._objects.values() if item.run.ref.machine_id == machine_id]:
            self._drop(thing)
        self._held.pop(machine_id, None)
        self._isolated.add(machine_id)

    def heal(self, machine_id: MachineId | None = None) -> None:
        """Let a machine answer again, or all of them."""
        healed = self._cut | self._isolated if machine_id is None else {machine_id}
        self._cut, self._isolated = self._cut - healed, self._isolated - healed

    def answers(self, machine_id: MachineId) -> bool:
        """Tell whether a machine's engine can be used."""
        return machine_id not in self._cut | self._isolated

    def is_isolated(self, machine_id: MachineId) -> bool:
        """Tell whether a host is off the network."""
        return machine_id in self._isolated

    def reboot(self, machine_id: MachineId) -> None:
        """End everything that runs on a machine, without an exit code."""
        self.settle()
        for thing in [item for item in self._objects.values() if item.run.ref.machine_id == machine_id]:
            if thing.seen.phase is Phase.RUNNING:
                self._end(thing, None, self.clock.now(), Reason.MACHINE_LOST, "the machine was restarted")

    def reject_image(self, image: str, message: str = "no such image") -> None:
        """Let every later fetch of this image fail for good; what a machine holds it keeps."""
        self._rejected_images[image] = EngineRejected(Reason.IMAGE_PULL_FAILED, f"{image}: {message}")

    def forget_image(self, reference: str) -> None:
        """Remove an image from every machine, as somebody who cleans up would."""
        for held in self._held.values():
            held.pop(reference, None)

    def accept_image(self, image: str) -> None:
        """Take ``reject_image`` back."""
        self._rejected_images.pop(image, None)

    def settle(self) -> None:
        """End every run whose time has come; every call does this first."""
        now = self.clock.monotonic()
        while self._due and self._due[0][0] <= now:
            due, _, thing = heapq.heappop(self._due)
            if thing.due == due and thing.seen.phase is Phase.RUNNING:
                ended_at = self.clock.now() - datetime.timedelta(seconds=now - due)
                self._end(thing, thing.exit_code, ended_at)

    # For clients.

    def _check(self, machine_id: MachineId) -> None:
        if machine_id in self._isolated:
            raise MachineUnreachable(f"host {machine_id} does not answer")
        if machine_id in self._cut:
            raise EngineUnavailable(f"machine {machine_id} does not answer")
        self.settle()

    def _get(self, installation: str, ref: Ref) -> _Object | None:
        """Return the object of this ref, or ``None``; refuse a ref that is older than the object."""
        thing = self._objects.get((installation, ref.container_id))
        if thing is None or thing.run.ref.machine_id != ref.machine_id:
            return None
        if ref.generation < thing.run.ref.generation:
            raise EngineRejected(
                STALE_GENERATION,
                f"order for generation {ref.generation} of {ref.container_id}, which is at {thing.run.ref.generation}",
            )
        return thing if ref.generation == thing.run.ref.generation else None

    def _create(self, installation: str, run: ContainerRun) -> Observation:
        thing = self._get(installation, run.ref)
        if thing is not None:
            return thing.seen
        if run.takes_over is not None:
            return self._take_over(installation, run, run.takes_over)
        fetched = self._prepare(run.ref.machine_id, run.image)
        if fetched.held is None:
            return Observation(run.ref, Phase.ABSENT, progress=fetched.progress)
        older = self._objects.get((installation, run.ref.container_id))
        if older is not None:
            self._drop(older)
        return self._make(installation, run, next(self._disks), fetched.held.digest)

    def _take_over(self, installation: str, run: ContainerRun, old: Ref) -> Observation:
        thing = self._get(installation, old)
        if thing is None:
            raise EngineRejected(Reason.REMOVED_EXTERNALLY, f"{old.container_id}, which was to be reused, is gone")
        if self.are_take_overs_refused:
            raise EngineRejected(Reason.START_FAILED, f"copy of {old.container_id}: no space left on the disk")
        if thing.run.account_id != run.account_id:
            raise EngineRejected(Reason.START_FAILED, f"{old.container_id} is another account's and is never reused")
        if thing.seen.phase is not Phase.EXITED:
            raise EngineUnavailable(f"{old.container_id}, which was to be reused, is {thing.seen.phase}")
        self._drop(thing)
        return self._make(installation, run, thing.disk, thing.seen.image_digest)

    def _make(self, installation: str, run: ContainerRun, disk: int, digest: str) -> Observation:
        addresses = {port: Address("127.0.0.1", _FIRST_PORT + next(self._ports) % _PORT_COUNT) for port in PORTS}
        seen = Observation(run.ref, Phase.CREATED, addresses, image_digest=digest)
        thing = _Object(installation, run, seen, _understand(run.cmd), disk=disk)
        self._objects[installation, run.ref.container_id] = thing
        self._latest[run.ref.container_id] = thing
        self._on_machine.setdefault((installation, run.ref.machine_id), {})[run.ref.container_id] = thing
        self._hint(thing)
        return thing.seen

    def _start(self, installation: str, ref: Ref) -> Observation:
        thing = self._get(installation, ref)
        if thing is None:
            raise EngineRejected(Reason.REMOVED_EXTERNALLY, f"start of {ref.container_id}: there is no such object")
        if thing.seen.started_at is not None:
            return thing.seen
        if thing.seen.phase is Phase.EXITED:
            raise EngineRejected(Reason.START_FAILED, f"start of {ref.container_id}: it was stopped before")
        now = self.clock.now()
        self._starts.setdefault(ref.container_id, []).append(StartedRun(thing.run, now))
        thing.seen = replace(thing.seen, phase=Phase.RUNNING, started_at=now)
        thing.output.append(thing.script.output)
        self._schedule(thing, thing.script.seconds, thing.script.exit_code)
        self._hint(thing)
        return thing.seen

    def _stop(self, installation: str, ref: Ref, order: StopOrder) -> Observation:
        thing = self._get(installation, ref)
        if thing is None:
            return Observation(ref, Phase.ABSENT)
        if thing.seen.phase is Phase.CREATED:
            thing.seen = replace(
                thing.seen, phase=Phase.EXITED, finished_at=self.clock.now(), message="stopped before it was started"
            )
            self._hint(thing)
        elif thing.seen.phase is Phase.RUNNING and not thing.is_stopping:
            thing.is_stopping = True
            seconds = 0.0
            if order.cmd_before_shutdown:
                seconds += min(_understand(order.cmd_before_shutdown).seconds, order.before_seconds)
            if thing.script.ignores_term:
                seconds += order.term_seconds
            if self.clock.monotonic() + seconds < thing.due:
                self._schedule(thing, seconds, 137 if thing.script.ignores_term else 143)
            self._hint(thing)
        return thing.seen

    def _remove(self, installation: str, ref: Ref) -> None:
        self._get(installation, ref)
        thing = self._objects.get((installation, ref.container_id))
        if thing is not None and thing.run.ref.machine_id == ref.machine_id:
            self._drop(thing)

    def _all(self, installation: str, machine_id: MachineId) -> Sequence[Observation]:
        things = self._on_machine.get((installation, machine_id), {})
        return tuple(thing.seen for thing in things.values())

    def _prepare(self, machine_id: MachineId, order: ImageOrder) -> ImageProgress:
        held, key, now = self._held.setdefault(machine_id, {}), (machine_id, order.reference), self.clock.monotonic()
        if is_saved(order.reference) and not (
            order.reference in held and order.account_id in {None, saved_by(order.reference)}
        ):
            raise EngineRejected(Reason.IMAGE_PULL_FAILED, f"{order.reference}: no such image was saved here")
        if order.reference in self._rejected_images and (order.is_always_pulled or order.reference not in held):
            refusal = self._rejected_images[order.reference]
            raise EngineRejected(refusal.reason, str(refusal))
        if order.reference not in held:
            if key not in self._pull_due:
                self.pulls[key] += 1
                self._pull_due[key] = now + self.pull_seconds.get(order.reference, 0.0)
            if now < self._pull_due[key]:
                return ImageProgress(progress=f"fetching {order.reference}")
            del self._pull_due[key]
            digest = f"sha256:{hashlib.sha256(order.reference.encode()).hexdigest()}"
            held[order.reference] = HeldImage(order.reference, digest, GIB)
        return ImageProgress(held[order.reference])

    def _save(self, installation: str, ref: Ref, reference: str) -> HeldImage:
        held = self._held.setdefault(ref.machine_id, {})
        if reference not in held:
            thing = self._get(installation, ref)
            if thing is None or thing.run.ref.generation != ref.generation:
                raise EngineRejected(Reason.REMOVED_EXTERNALLY, f"save of {ref.container_id}: there is no such object")
            held[reference] = HeldImage(reference, "", GIB)
        return held[reference]

    # Inside.

    def _find(self, container_id: ContainerId) -> _Object | None:
        return self._latest.get(container_id)

    def _schedule(self, thing: _Object, seconds: float, exit_code: int) -> None:
        if seconds == math.inf:
            return
        thing.due, thing.exit_code = self.clock.monotonic() + seconds, exit_code
        heapq.heappush(self._due, (thing.due, next(self._numbers), thing))

    def _end(
        self,
        thing: _Object,
        exit_code: int | None,
        ended_at: datetime.datetime,
        reason: Reason | None = None,
        message: str = "",
    ) -> None:
        thing.due = math.inf
        thing.seen = replace(
            thing.seen, phase=Phase.EXITED, finished_at=ended_at, exit_code=exit_code, reason=reason, message=message
        )
        self._hint(thing)

    def _drop(self, thing: _Object) -> None:
        ref = thing.run.ref
        del self._objects[thing.installation, ref.container_id]
        del self._on_machine[thing.installation, ref.machine_id][ref.container_id]
        if self._latest.get(ref.container_id) is thing:
            del self._latest[ref.container_id]
        if thing.seen.phase is not Phase.EXITED:
            thing.seen = replace(thing.seen, phase=Phase.ABSENT)
        thing.due = math.inf
        self._hint(thing)

    def _hint(self, thing: _Object) -> None:
        if self.are_hints_lost or thing.run.ref.machine_id in self._isolated:
            return
        for inbox in self._inboxes:
            inbox.put(thing.run.ref.container_id)

    async def _wait(self, inbox: Inbox) -> None:
        """Return once the inbox was woken, or the next run is due to end."""
        self.settle()
        if inbox.woken.is_set():
            return
        if not self._due:
            await inbox.woken.wait()
            return
        tasks = {
            asyncio.ensure_future(inbox.woken.wait()),
            asyncio.ensure_future(self.clock.sleep(self._due[0][0] - self.clock.monotonic())),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class FakeEngine:
    """One client of a ``FakeWorld``; ``installation`` is whose objects it sees."""

    def __init__(
        self,
        world: FakeWorld,
        *,
        installation: str = "muster",
        capabilities: Capabilities | None = None,
    ) -> None:
        self._world = world
        self._installation = installation
        self._capabilities = capabilities or Capabilities(
            shares_host_ports=False, isolates_tenants=True, has_images=True, reuses_containers=True
        )
        self._inboxes: set[Inbox] = set()

    @property
    def capabilities(self) -> Capabilities:
        """What it was told to be able to do."""
        return self._capabilities

    async def create(self, run: ContainerRun) -> Observation:
        """Make the object; the image may have been rejected."""
        await self._give_way(run.ref.machine_id)
        return self._world._create(self._installation, run)  # noqa: SLF001

    async def start(self, ref: Ref) -> Observation:
        """Start the command, once."""
        await self._give_way(ref.machine_id)
        return self._world._start(self._installation, ref)  # noqa: SLF001

    async def stop(self, ref: Ref, order: StopOrder) -> Observation:
        """Begin to end the run."""
        await self._give_way(ref.machine_id)
        return self._world._stop(self._installation, ref, order)  # noqa: SLF001

    async def remove(self, ref: Ref) -> None:
        """Delete the object."""
        await self._give_way(ref.machine_id)
        self._world._remove(self._installation, ref)  # noqa: SLF001

    async def observe(self, ref: Ref) -> Observation:
        """Return what is there."""
        await self._give_way(ref.machine_id)
        thing = self._world._get(self._installation, ref)  # noqa: SLF001
        return thing.seen if thing else Observation(ref, Phase.ABSENT)

    async def observe_all(self, machine_id: MachineId) -> Sequence[Observation]:
        """Return every object of this installation on a machine."""
        await self._give_way(machine_id)
        return self._world._all(self._installation, machine_id)  # noqa: SLF001

    def watch(self) -> AsyncIterator[ContainerId]:
        """Yield ids of what changed, from this call on."""
        inbox = self._open_inbox()
        return self._hints(inbox)

    async def prepare(self, machine_id: MachineId, order: ImageOrder) -> ImageProgress:
        """See that a machine has an image."""
        await self._give_way(machine_id)
        return self._world._prepare(machine_id, order)  # noqa: SLF001

    async def images(self, machine_id: MachineId) -> Sequence[HeldImage]:
        """Return what a machine holds."""
        await self._give_way(machine_id)
        return tuple(self._world._held.get(machine_id, {}).values())  # noqa: SLF001

    async def save(self, ref: Ref, reference: str) -> HeldImage:
        """Make an image of a container's files."""
        await self._give_way(ref.machine_id)
        return self._world._save(self._installation, ref, reference)  # noqa: SLF001

    async def disk(self, machine_id: MachineId) -> Disk:
        """Return what the world says."""
        await self._give_way(machine_id)
        return self._world.disk

    async def execute(self, ref: Ref, order: ExecOrder) -> ExecSession:
        """Refuse: nothing runs here."""
        await self._give_way(ref.machine_id)
        raise EngineRejected(Reason.ERROR, f"exec of {order.command} in {ref.container_id}: nothing really runs here")

    async def sftp(self, ref: Ref) -> ExecSession:
        """Refuse: there are none."""
        await self._give_way(ref.machine_id)
        raise EngineRejected(Reason.ERROR, f"files of {ref.container_id}: nothing really runs here")

    async def dial(self, ref: Ref, host: str, port: int) -> ExecSession:
        """Refuse: nothing listens here."""
        await self._give_way(ref.machine_id)
        raise EngineRejected(
            Reason.ERROR, f"connection to {host}:{port} in {ref.container_id}: nothing really runs here"
        )

    async def host_address(self, machine_id: MachineId, account_id: AccountId) -> str:
        """Return nothing: nobody is there to reach the host."""
        del account_id
        await self._give_way(machine_id)
        return ""

    async def logs(
        self, ref: Ref, *, tail: int | None = None, since: datetime.datetime | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield output, which has no dates; see the port."""
        del since
        await self._give_way(ref.machine_id)
        thing = self._world._get(self._installation, ref)  # noqa: SLF001
        if thing is None:
            return
        inbox = self._open_inbox()
        try:
            position = len(thing.output)
            kept = _tail(b"".join(thing.output), tail)
            if kept:
                yield kept
            while follow:
                is_over = thing.seen.phase in (Phase.EXITED, Phase.ABSENT)
                while position < len(thing.output):
                    yield thing.output[position]
                    position += 1
                if is_over or inbox.is_closed:
                    return
                await self._world._wait(inbox)  # noqa: SLF001
                inbox.take()
        finally:
            self._close_inbox(inbox)

    async def aclose(self) -> None:
        """Forget the watchers; the world goes on."""
        for inbox in tuple(self._inboxes):
            self._close_inbox(inbox)

    async def _give_way(self, machine_id: MachineId) -> None:
        await asyncio.sleep(0)
        self._world._check(machine_id)  # noqa: SLF001

    async def _hints(self, inbox: Inbox) -> AsyncIterator[ContainerId]:
        try:
            while not inbox.is_closed:
                await self._world._wait(inbox)  # noqa: SLF001
                for container_id in inbox.take():
                    yield container_id
        finally:
            self._close_inbox(inbox)

    def _open_inbox(self) -> Inbox:
        inbox = Inbox()
        self._inboxes.add(inbox)
        self._world._inboxes.add(inbox)  # noqa: SLF001
        return inbox

    def _close_inbox(self, inbox: Inbox) -> None:
        inbox.close()
        self._inboxes.discard(inbox)
        self._world._inboxes.discard(inbox)  # noqa: SLF001


@functools.lru_cache(maxsize=1024)
def _understand(cmd: str) -> _Script:
    """Read a command as the module's text says."""
    seconds, output, ignores_term, code = 0.0, b"", False, 0
    for statement in re.split(r";|&&|\n", cmd):
        word, _, rest = statement.strip().removeprefix("exec ").partition(" ")
        rest = rest.strip()
        if word == "sleep" and re.fullmatch(r"infinity|[0-9]+(\.[0-9]+)?", rest):
            seconds, code = seconds + float(rest), 0
            if seconds == math.inf:
                break
        elif word == "exit" and re.fullmatch(r"[0-9]*", rest):
            return _Script(seconds, int(rest or code), output, ignores_term)
        elif word == "echo":
            output, code = output + rest.strip("'\"").encode() + b"\n", 0
        elif statement.strip() == "trap '' TERM":
            ignores_term = True
        elif word in ("true", "false"):
            code = int(word == "false")
        elif word:
            return _Script(math.inf, 0, output, ignores_term)
    return _Script(seconds, code, output, ignores_term)


def _tail(output: bytes, lines: int | None) -> bytes:
    if lines is None:
        return output
    return b"".join(output.splitlines(keepends=True)[-lines:]) if lines else b""
