"""The Docker engine: one daemon, whose containers are one installation's runs.

In: the calls of the port. Out: calls of the Docker Engine API (``connection``) and one folder per object (``folder``).
The parts: ``spec`` says what Docker is told, ``observe`` and ``causes`` what it means what Docker says, ``objects``
finds, ``pull`` fetches images, ``making`` makes objects, ``reuse`` hands one to another run, ``starting`` starts one,
``stop`` ends one, ``sweep`` removes what was given up, ``watch`` hears of changes, ``logs`` streams, ``reach`` goes in.

**What is where.** An object's name says which container it is, labels whose it is, the folder what its command is to
read. Nothing secret is told to Docker: environment and command are files that the container's own shell reads.

**Addresses.** No port is published: every account has a bridge network, the host reaches a container at its own
address, and Docker keeps the networks apart. Docker gives the address at the start.

**Life.** Containers are the daemon's and outlive this process. A daemon that is away is ``EngineUnavailable``; what
ended while it was away is told as ``engine_restarted``. All machines of an installation are this one daemon's.
"""

import asyncio
import datetime
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from muster.engine.docker import logs, reuse, spec
from muster.engine.docker.access import Access
from muster.engine.docker.busy import Busy
from muster.engine.docker.causes import Causes
from muster.engine.docker.connection import CALL_SECONDS, Connection, check, converted
from muster.engine.docker.ending import end_all_runs
from muster.engine.docker.folder import Cause, boot_id
from muster.engine.docker.held import find_image, list_images, read_reference
from muster.engine.docker.host import HostProbe
from muster.engine.docker.lost_runs import end_lost_run
from muster.engine.docker.making import NAME, Maker, StorageOf, check_run, written
from muster.engine.docker.networks import Networks
from muster.engine.docker.objects import Objects, Thing
from muster.engine.docker.observe import observation, was_started
from muster.engine.docker.pull import Puller
from muster.engine.docker.reach import STALE_GENERATION, Reach, is_here
from muster.engine.docker.starting import Starter
from muster.engine.docker.stop import end_run
from muster.engine.docker.sweep import Sweep
from muster.engine.docker.watch import Watch
from muster.engine.port import Capabilities, ContainerRun, ExecSession, Observation, Phase, Ref, StopOrder
from muster.errors import EngineRejected, EngineUnavailable
from muster.model.container import Reason
from muster.model.ids import AccountId, ContainerId, MachineId
from muster.model.image import HeldImage, ImageOrder, ImageProgress
from muster.model.run import Disk, ExecOrder

_LOG_POLL_SECONDS = 0.1

_log = logging.getLogger(__name__)


class DockerEngine:
    """Runs containers on a Docker daemon; see the port for what every method guarantees.

    ``installation``: whose objects these are. ``root``: the folder of the objects' folders. ``storage_of``: what
    containers mount beside their own disk. ``call_seconds``: how long a daemon may take for an answer before it is said
    to hang.
    """

    def __init__(
        self,
        url: str,
        *,
        installation: str,
        root: Path,
        storage_of: StorageOf = lambda *_: spec.Storage(),
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self._connection = Connection(url, call_seconds)
        self._root = root.absolute()
        self._objects = Objects(self._connection, installation, self._root / "objects")
        self._puller = Puller(self._connection, Access(self._root / "private-images.json"))
        self._probe = HostProbe(self._connection, installation)
        self._watch = Watch(self._connection, installation, self._objects)
        self._causes = Causes(self._connection, self._watch)
        self._networks = Networks(self._connection, installation, self._objects.names)
        self._maker = Maker(
            self._connection,
            installation,
            self._objects,
            networks=self._networks,
            probe=self._probe,
            storage_of=storage_of,
        )
        self._starter = Starter(self._connection, self._objects, self._networks)
        self._stops: dict[str, asyncio.Task[None]] = {}
        self._busy = Busy()
        self._sweep = Sweep(self._connection, self._objects, self._probe, self._busy)
        self._reach = Reach(self._connection, self._objects)
        self._is_closed = False

    @property
    def capabilities(self) -> Capabilities:
        """Containers with walls, ports and files of their own."""
        return Capabilities(
            shares_host_ports=False,
            isolates_tenants=True,
            has_images=True,
            reuses_containers=True,
            has_exec=True,
            dates_logs=True,
            gives_addresses_at_start=True,
            limits_resources=True,
            has_sftp=not self._reach.why_not,
            can_dial=not self._reach.why_not,
        )

    async def check(self) -> None:
        """See that the daemon can be used at all. Raises ``SetupError`` in one line. Not part of the port."""
        await check(self._connection)

    async def create(self, run: ContainerRun) -> Observation:
        """Make the object, or take another's over; fetches the image without waiting for it."""
        check_run(run)
        thing = await self._find(run.ref)
        if thing is not None and thing.ref.generation < run.ref.generation:
            await self._destroy(thing)
            thing = None
        if thing is not None:
            return await self._look(thing)
        with self._busy.taking(run.ref.container_id):
            if run.takes_over is not None:
                await self._maker.take_over(run)
            else:
                container_id = run.ref.container_id
                progress = await self._puller.ask(run.image, container_id, lambda: self._watch.hint(container_id))
                if progress.held is None:
                    return Observation(run.ref, Phase.ABSENT, progress=progress.progress)
                await self._maker.make(run, progress.held)
        self._watch.hint(run.ref.container_id)
        return await self.observe(run.ref)

    async def start(self, ref: Ref) -> Observation:
        """Start the command, once."""
        thing = await self._find_run(ref)
        if thing is None:
            raise EngineRejected(Reason.REMOVED_EXTERNALLY, f"start of {ref.container_id}: there is no such container")
        seen = await self._look(thing)
        if seen.started_at is not None:
            return seen
        if seen.phase is Phase.EXITED:
            raise EngineRejected(Reason.START_FAILED, f"start of {ref.container_id}: {seen.message}")
        if thing.card is not None:
            card = replace(thing.card, starting_at=time.time(), boot_id=boot_id())
            with written(thing.folder):
                await asyncio.to_thread(thing.folder.write_card, card)
        with self._busy.taking(ref.container_id):
            await self._starter.start(thing)
        self._watch.hint(ref.container_id)
        return await self.observe(ref)

    async def stop(self, ref: Ref, order: StopOrder) -> Observation:
        """Begin to end the run; a task of this engine carries the order through."""
        thing = await self._find_run(ref)
        if thing is None:
            return Observation(ref, Phase.ABSENT)
        seen = await self._look(thing)
        if seen.phase is Phase.EXITED:
            return seen
        stopping = await asyncio.to_thread(thing.folder.order_stop, order, time.time())
        if seen.phase is Phase.CREATED:
            await self._end_lost_run(thing)
            try:
                await asyncio.to_thread(thing.folder.write_stopping, stopping)
            except OSError as error:
                words = f"the folder {thing.folder.path} cannot be written: {error.strerror}"
                raise EngineUnavailable(words) from error
            self._watch.hint(ref.container_id)
            return await self._look(thing)
        if thing.docker_id not in self._stops and not self._is_closed:
            self._spawn(thing.docker_id, end_run(self._connection, thing.docker_id, thing.folder, stopping))
        return seen

    async def remove(self, ref: Ref) -> None:
        """Delete the object and its folder."""
        thing = await self._find(ref)
        if thing is not None:
            await self._destroy(thing)
            self._watch.hint(ref.container_id)

    async def observe(self, ref: Ref) -> Observation:
        """Return what is there."""
        thing = await self._find_run(ref)
        if thing is None:
            return Observation(ref, Phase.ABSENT)
        return await self._look(thing)

    async def observe_all(self, machine_id: MachineId) -> Sequence[Observation]:
        """Return every object on a machine; removes what deaths of ours left half made."""
        with converted("observe"):
            things = await self._objects.all(machine_id)
            await self._sweep.run()
            return await asyncio.gather(*(self._look(thing) for thing in things))

    def watch(self) -> AsyncIterator[ContainerId]:
        """Yield ids of what changed, from this call on; ends when the engine is closed.

        Raises ``EngineUnavailable`` when the daemon's events break off: watch again, and look at everything.
        """
        return self._watch.hints()

    async def prepare(self, machine_id: MachineId, order: ImageOrder) -> ImageProgress:
        """See that the host has an image."""
        return await self._puller.ask(order, f"prepare {machine_id}")

    async def images(self, machine_id: MachineId) -> Sequence[HeldImage]:
        """Return the images of the host."""
        del machine_id
        with converted("list images"):
            return await list_images(self._connection)

    async def save(self, ref: Ref, reference: str) -> HeldImage:
        """Commit a container's files to an image."""
        name = read_reference(reference)
        held = await find_image(self._connection, name)
        if held is None:
            thing = await self._find_run(ref)
            if thing is None:
                raise EngineRejected(Reason.REMOVED_EXTERNALLY, f"save of {ref.container_id}: it is gone")
            with converted(f"save of {ref.container_id} as {reference}", Reason.ERROR):
                await reuse.commit(self._connection, thing.docker_id, name.name, name.tag)
            held = await find_image(self._connection, name)
        if held is None:
            raise EngineUnavailable(f"save of {ref.container_id}: {reference} is gone again")
        return held

    async def disk(self, machine_id: MachineId) -> Disk:
        """Return the disk of Docker's own folder, or of ours where that cannot be looked at."""
        del machine_id
        with converted("look at the disk"):
            return await self._probe.disk(self._root)

    async def execute(self, ref: Ref, order: ExecOrder) -> ExecSession:
        """Run a command in a running container, in the environment and folder of its own command."""
        return await self._reach.execute(ref, order)

    async def sftp(self, ref: Ref) -> ExecSession:
        """Open the files of a running container, by a process that enters it."""
        return await self._reach.sftp(ref)

    async def dial(self, ref: Ref, host: str, port: int) -> ExecSession:
        """Connect to something in a running container, by a socket that is made in its network."""
        return await self._reach.dial(ref, host, port)

    async def host_address(self, machine_id: MachineId, account_id: AccountId) -> str:
        """Return the address of the daemon's host in the account's network, if this is that host."""
        del machine_id
        if not is_here(self._connection.url):
            return ""
        with converted("look for the address of this host"):
            return await self._networks.gateway(account_id)

    async def logs(
        self, ref: Ref, *, tail: int | None = None, since: datetime.datetime | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield output of this run."""
        while True:
            thing = await self._find_run(ref)
            if thing is None:
                return
            if was_started(thing.info, thing.card):
                break
            stopping = await asyncio.to_thread(thing.folder.stopping)
            if not follow or stopping is not None or self._is_closed:
                return
            await asyncio.sleep(_LOG_POLL_SECONDS)
        with converted(f"logs of {ref.container_id}"):
            async for chunk in logs.read(self._connection, thing, tail=tail, since=since, follow=follow):
                yield chunk

    async def aclose(self) -> None:
        """Let go of the daemon; containers run on, and who comes next carries their stops through."""
        self._is_closed = True
        self._watch.close()
        tasks = list(self._stops.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._puller.close()
        await self._connection.close()

    async def end_all(self, order: StopOrder, *, keeps_remains: bool) -> tuple[int, int]:
        """End every run; with ``keeps_remains=False`` remove every object, folder and network, too.

        Returns how many ran, and how many objects are left. Not part of the port.
        """
        with converted("end everything"):
            ended = await end_all_runs(self._connection, self._objects, order)
            everything = await self._objects.everything()
            if keeps_remains:
                return ended, len(everything)
            for docker_id in everything:
                thing = await self._objects.inspect(docker_id)
                if thing is not None:
                    await self._destroy(thing)
            await self._sweep.run()
            await self._networks.remove_all()
        return ended, 0

    # Finding and telling.

    async def _find(self, ref: Ref) -> Thing | None:
        """Return the object of a container, of this generation or an older one; refuse an order for an older one."""
        if NAME.fullmatch(ref.container_id) is None:
            return None
        with converted(f"find {ref.container_id}"):
            thing = await self._objects.find(ref.container_id)
        if thing is None or thing.ref.machine_id != ref.machine_id:
            return None
        if thing.ref.generation > ref.generation:
            raise EngineRejected(
                STALE_GENERATION,
                f"order for generation {ref.generation} of {ref.container_id}, which is at {thing.ref.generation}",
            )
        return thing

    async def _find_run(self, ref: Ref) -> Thing | None:
        """Return the object of exactly this run; an older one is absence."""
        thing = await self._find(ref)
        return thing if thing is not None and thing.ref.generation == ref.generation else None

    async def _look(self, thing: Thing) -> Observation:
        stopping = await asyncio.to_thread(thing.folder.stopping)
        cause = Cause()
        has_ended = thing.info["State"]["Status"] in {"exited", "dead"} and was_started(thing.info, thing.card)
        if stopping is None and has_ended:
            with converted(f"observe {thing.container_id}"):
                cause = await self._causes.of(thing)
        return observation(thing.ref, thing.info, thing.card, stopping, cause)

    # Ending.

    async def _destroy(self, thing: Thing) -> None:
        await self._end_lost_run(thing)
        with converted(f"remove {thing.container_id}"):
            await reuse.remove_object(self._connection, thing.docker_id)
            await reuse.remove_copied_image(self._connection, thing)
        task = self._stops.get(thing.docker_id)
        if task is not None:
            task.cancel()
        try:
            await asyncio.to_thread(thing.folder.destroy)
        except OSError as error:
            raise EngineUnavailable(f"the folder {thing.folder.path} cannot be deleted: {error.strerror}") from error

    async def _end_lost_run(self, thing: Thing) -> None:
        """End a run that Docker knows nothing of, before its container is taken for one that never ran."""
        is_lost = not was_started(thing.info, thing.card) and await asyncio.to_thread(thing.folder.was_begun, thing.ref)
        if is_lost:
            await asyncio.to_thread(end_lost_run, thing.docker_id)

    def _spawn(self, docker_id: str, work: Coroutine[Any, Any, None]) -> None:
        def forget(task: asyncio.Task[None]) -> None:
            self._stops.pop(docker_id, None)
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.warning("container %s could not be ended, again with the next order: %s", docker_id, error)

        task = self._stops[docker_id] = asyncio.create_task(work, name=f"stop {docker_id}")
        task.add_done_callback(forget)
