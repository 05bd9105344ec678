"""The local engine: containers that are plain processes of this host, for a laptop, a demo or a single server.

In: the calls of the port. Out: folders under one root (``local_folder``) and one shim process per running container
(``shim``), which outlives this process and is found again by whoever opens the same root. Nothing is isolated: the
containers share the host's files, network and ports, so only admins may deploy on it, and limits of CPU and memory
are not enforced. Every machine of the installation is this host.

Start protocol: ``create`` makes the folder, ``start`` spawns a shim and waits for its word. The shim takes the lock,
writes the marker and only then starts the command, so that a crash at any instruction leaves either "not started"
(start again) or "started once"; ``shim`` has the details. ``stop`` writes an order, the shim carries it out.

Watching: one pidfd for each running shim that this engine knows of; it becomes readable when the shim ends. A rescan
every few seconds adopts what others started, and finds what vanished. One descriptor per running container is the
price; they are closed with the engine.

Everything that touches the disk runs in threads. Refused: asyncio's subprocesses (they end with their loop, and warn
about what outlives it), a daemon of our own between server and shims (one more process that must never die), and
inotify (not in the standard library).
"""

import asyncio
import contextlib
import datetime
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from muster.engine import local_folder, shim
from muster.engine.dial import addresses, connect
from muster.engine.inbox import Inbox
from muster.engine.local_exec import open_exec
from muster.engine.local_folder import Folder, Seen
from muster.engine.local_logs import Output
from muster.engine.local_ports import Ports
from muster.engine.local_process import Identity
from muster.engine.port import Capabilities, ContainerRun, ExecSession, Observation, Phase, Ref, StopOrder
from muster.engine.sftp.process import open_sftp
from muster.errors import EngineRejected, EngineUnavailable, SetupError
from muster.model.container import Address, Reason
from muster.model.ids import AccountId, ContainerId, MachineId
from muster.model.image import HeldImage, ImageOrder, ImageProgress
from muster.model.run import Disk, ExecOrder

T = TypeVar("T")
P = ParamSpec("P")

_BASICS = ("PATH", "HOME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LOGNAME", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
"""What a command gets of the server's own environment: nothing that could be a secret."""

HOST_IMAGE = HeldImage("local")
"""What a container of this engine is made from."""

_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")
_LOOPBACK = ("127.0.0.1", "::1")
_START_SECONDS = 10.0
_LOG_POLL_SECONDS = 0.1


class LocalEngine:
    """Runs containers as processes of this host; see the port for what every method guarantees.

    ``root``: the folder of this engine's containers; engines with different roots never see each other's.
    ``workdir``: where commands run, ``None`` for a folder of each container's own. ``log_bytes``: kept output is at
    most twice that. ``environ``: whence commands get ``PATH`` and the like. Raises ``SetupError`` where it cannot work.
    """

    def __init__(
        self,
        root: str | Path,
        workdir: str | Path | None = None,
        *,
        log_bytes: int = 10_000_000,
        rescan_seconds: float = 5.0,
        shells: Sequence[str] = ("bash", "sh"),
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        if sys.platform != "linux":
            raise SetupError(f"the local engine needs Linux, this is {sys.platform}: use another engine")
        self._root = Path(root).absolute()
        self._workdir = Path(workdir).absolute() if workdir is not None else None
        self._log_bytes = log_bytes
        self._rescan_seconds = rescan_seconds
        self._shells = shells
        self._basics = {name: environ[name] for name in _BASICS if name in environ}
        self._ports = Ports(self._root)
        self._is_cleaned = False
        self._inboxes: set[Inbox] = set()
        self._pidfds: dict[ContainerId, tuple[Identity, int]] = {}
        self._is_closed = False

    @property
    def capabilities(self) -> Capabilities:
        """One host's ports for all, and no walls between them."""
        return Capabilities(shares_host_ports=True, isolates_tenants=False, has_exec=True, has_sftp=True, can_dial=True)

    async def create(self, run: ContainerRun) -> Observation:
        """Make the container's folder and reserve its ports."""
        return self._tell(run.ref, await self._in_thread(self._create, run))

    async def start(self, ref: Ref) -> Observation:
        """Start the command, once."""
        return self._tell(ref, await self._in_thread(self._start, ref))

    async def stop(self, ref: Ref, order: StopOrder) -> Observation:
        """Hand the order to the shim, which carries it out."""
        return self._tell(ref, await self._in_thread(self._stop, ref, order))

    async def remove(self, ref: Ref) -> None:
        """Delete the folder, after ending what runs."""
        await self._in_thread(self._remove, ref)
        self._hint(ref.container_id)

    async def observe(self, ref: Ref) -> Observation:
        """Return what is there."""
        return self._track(await self._in_thread(self._look, ref))

    async def observe_all(self, machine_id: MachineId) -> Sequence[Observation]:
        """Return every object on a machine."""
        seen = await self._in_thread(self._look_at_all)
        return tuple(self._track(one) for one in seen if one.observation.ref.machine_id == machine_id)

    def watch(self) -> AsyncIterator[ContainerId]:
        """Yield ids of what changed, from this call on; ends when the engine is closed."""
        inbox = Inbox()
        self._inboxes.add(inbox)
        return self._hints(inbox)

    async def prepare(self, machine_id: MachineId, order: ImageOrder) -> ImageProgress:
        """Tell that the host is there; there is no other image."""
        del machine_id
        if order.reference != HOST_IMAGE.reference:
            raise EngineRejected(
                Reason.IMAGE_PULL_FAILED, f"{order.reference}: the local engine has one image, the host"
            )
        return ImageProgress(HOST_IMAGE)

    async def images(self, machine_id: MachineId) -> Sequence[HeldImage]:
        """Return the host."""
        del machine_id
        return (HOST_IMAGE,)

    async def save(self, ref: Ref, reference: str) -> HeldImage:
        """Refuse: a container's files are the host's."""
        raise EngineRejected(Reason.ERROR, f"save of {ref.container_id} as {reference}: the local engine has no images")

    async def disk(self, machine_id: MachineId) -> Disk:
        """Return the disk of the root."""
        del machine_id
        usage = await self._in_thread(_disk_usage, self._root)
        return Disk(usage.total, usage.free)

    async def execute(self, ref: Ref, order: ExecOrder) -> ExecSession:
        """Run a command in the environment and the folder of a container's own, to end with it."""
        folder, _ = await self._in_thread(self._running, ref, "exec")
        return await open_exec(folder.path, order)

    async def sftp(self, ref: Ref) -> ExecSession:
        """Open the files of this host, beginning where the container's command does."""
        folder, runs_in = await self._in_thread(self._running, ref, "files")
        workdir = await self._in_thread(_workdir, folder)
        return await open_sftp(workdir, lambda: _held(runs_in))

    async def dial(self, ref: Ref, host: str, port: int) -> ExecSession:
        """Connect to what this host reaches; 6006 and 6008 of it are the container's own ports."""
        folder, _ = await self._in_thread(self._running, ref, f"connection to {host}:{port}")
        own = folder.card.addresses.get(port) if addresses(host, port)[0] in _LOOPBACK else None
        target = Address(host, port) if own is None else own
        return await connect(target.host, target.port, lambda family: socket.socket(family, socket.SOCK_STREAM))

    async def host_address(self, machine_id: MachineId, account_id: AccountId) -> str:
        """Return nothing: containers are on the host."""
        del machine_id, account_id
        return ""

    async def logs(
        self, ref: Ref, *, tail: int | None = None, since: datetime.datetime | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield output; while somebody follows, the file is looked at ten times a second. Lines have no dates."""
        del since
        folder = await self._in_thread(self._find, ref)
        if folder is None:
            return
        output = Output(folder.path)
        try:
            await self._in_thread(output.seek, tail)
            while True:
                is_over = not follow or self._is_closed or await self._in_thread(self._is_over, ref)
                while chunk := await self._in_thread(output.read):
                    yield chunk
                if is_over:
                    return
                await asyncio.sleep(_LOG_POLL_SECONDS)
        finally:
            output.close()

    async def aclose(self) -> None:
        """End the watchers and close the descriptors; containers run on."""
        self._is_closed = True
        for inbox in self._inboxes:
            inbox.close()
        self._inboxes.clear()
        for container_id in tuple(self._pidfds):
            self._forget(container_id)

    async def purge(self) -> int:
        """End and remove every container of the root; returns how many there were. Not part of the port."""
        removed = await self._in_thread(self._purge)
        for container_id in removed:
            self._hint(container_id)
        return len(removed)

    # In threads: all that touches the disk.

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await asyncio.to_thread(work, *args, **kwargs)
        except OSError as error:
            raise EngineUnavailable(f"the local engine at {self._root} cannot {work.__name__.strip('_')}") from error

    def _find(self, ref: Ref) -> Folder | None:
        """Return the folder of this very run; refuse an order for an older one."""
        folder = self._any_generation(ref)
        if folder is None or folder.ref.generation < ref.generation:
            return None
        if folder.ref.generation > ref.generation:
            raise EngineRejected(
                "stale_generation",
                f"order for generation {ref.generation} of {ref.container_id}, which is at {folder.ref.generation}",
            )
        return folder

    def _any_generation(self, ref: Ref) -> Folder | None:
        if _NAME.fullmatch(ref.container_id) is None:
            return None
        folder = local_folder.find(self._root, ref.container_id)
        return folder if folder is not None and folder.ref.machine_id == ref.machine_id else None

    def _create(self, run: ContainerRun) -> Seen:
        if _NAME.fullmatch(run.ref.container_id) is None:
            raise EngineRejected(Reason.START_FAILED, f"{run.ref.container_id!r} cannot be a container's name")
        if run.takes_over is not None:
            raise EngineRejected(Reason.START_FAILED, "the local engine reuses no containers")
        if not _can_be_executed(run):
            raise EngineRejected(Reason.START_FAILED, "the command or a variable holds what no process can be given")
        if not self._is_cleaned:
            local_folder.clean(self._root, self._ports)
            self._is_cleaned = True
        folder = self._find(run.ref)
        if folder is None:
            older = self._any_generation(run.ref)
            if older is not None:
                self._destroy(older)
            folder = local_folder.make(self._root, run, self._ports, self._workdir, self._basics)
        if folder.ref != run.ref:
            raise EngineRejected(Reason.START_FAILED, f"{run.ref.container_id} is on machine {folder.ref.machine_id}")
        return folder.look()

    def _start(self, ref: Ref) -> Seen:
        folder = self._find(ref)
        if folder is None:
            raise EngineRejected(Reason.REMOVED_EXTERNALLY, f"start of {ref.container_id}: there is no such container")
        shell = self._shell()
        deadline = time.monotonic() + _START_SECONDS
        while True:
            seen = folder.look()
            if seen.observation.started_at is not None:
                return seen
            if seen.observation.phase is Phase.EXITED:
                raise EngineRejected(Reason.START_FAILED, f"start of {ref.container_id}: {seen.observation.message}")
            outcome = self._spawn(folder, shell)
            if outcome is shim.Outcome.NO_WORKDIR:
                raise EngineRejected(Reason.START_FAILED, f"the working directory {self._workdir} does not exist")
            if outcome is shim.Outcome.FAILED or time.monotonic() > deadline:
                raise EngineUnavailable(f"start of {ref.container_id}: its shim could not start")

    def _shell(self) -> str:
        for name in self._shells:
            found = shutil.which(name, path=self._basics.get("PATH", os.defpath)) or shutil.which(name, path=os.defpath)
            if found:
                return found
        raise EngineRejected(Reason.START_FAILED, f"no shell to run the command: none of {', '.join(self._shells)}")

    def _spawn(self, folder: Folder, shell: str) -> shim.Outcome:
        """Start a shim and wait for its word; the shim itself is nobody's child, so nobody has to reap it."""
        python = sys.executable
        pid = os.posix_spawn(
            python,
            [python, "-I", "-S", shim.__file__, str(folder.path), shell, str(self._log_bytes)],
            {"PATH": self._basics.get("PATH", os.defpath)},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, str(folder.path / "shim.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            ],
            setsid=True,
            setsigmask=[],
        )
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return shim.Outcome(code) if code in set(shim.Outcome) else shim.Outcome.FAILED

    def _stop(self, ref: Ref, order: StopOrder) -> Seen:
        folder = self._find(ref)
        if folder is None:
            return Seen(Observation(ref, Phase.ABSENT))
        seen = folder.look()
        if seen.observation.phase is Phase.EXITED:
            return seen
        folder.order_stop(order)
        if seen.observation.phase is Phase.CREATED:
            folder.stop_unstarted()
        return folder.look()

    def _remove(self, ref: Ref) -> None:
        self._find(ref)
        folder = self._any_generation(ref)
        if folder is not None:
            self._destroy(folder)

    def _destroy(self, folder: Folder) -> None:
        folder.destroy(local_folder.trash_path(self._root, folder.ref.container_id), self._ports)

    def _look(self, ref: Ref) -> Seen:
        folder = self._find(ref)
        return folder.look() if folder is not None else Seen(Observation(ref, Phase.ABSENT))

    def _look_at_all(self) -> list[Seen]:
        return [folder.look() for folder in local_folder.find_all(self._root)]

    def _running(self, ref: Ref, what: str) -> tuple[Folder, Identity]:
        """Return the folder of a run, and its shim. Raises ``EngineRejected`` when it does not run."""
        folder = self._find(ref)
        runs_in = folder.look().shim if folder is not None else None
        if folder is None or runs_in is None:
            raise EngineRejected(Reason.ERROR, f"{what} in {ref.container_id}: it does not run")
        return folder, runs_in

    def _is_over(self, ref: Ref) -> bool:
        return self._look(ref).observation.phase in (Phase.EXITED, Phase.ABSENT)

    def _purge(self) -> list[ContainerId]:
        removed = []
        for folder in local_folder.find_all(self._root):
            self._destroy(folder)
            removed.append(folder.ref.container_id)
        local_folder.clean(self._root, self._ports)
        return removed

    # On the loop: hints.

    def _tell(self, ref: Ref, seen: Seen) -> Observation:
        self._hint(ref.container_id)
        return self._track(seen)

    def _hint(self, container_id: ContainerId) -> None:
        for inbox in self._inboxes:
            inbox.put(container_id)

    def _track(self, seen: Seen) -> Observation:
        """Have the end of a shim reported that is not watched yet."""
        container_id = seen.observation.ref.container_id
        watched = self._pidfds.get(container_id)
        if seen.shim is not None and not self._is_closed and (watched is None or watched[0] != seen.shim):
            self._forget(container_id)
            descriptor = seen.shim.open()
            if descriptor is None:
                self._hint(container_id)
            else:
                self._pidfds[container_id] = seen.shim, descriptor
                asyncio.get_running_loop().add_reader(descriptor, self._ended, container_id)
        return seen.observation

    def _ended(self, container_id: ContainerId) -> None:
        self._forget(container_id)
        self._hint(container_id)

    def _forget(self, container_id: ContainerId) -> None:
        watched = self._pidfds.pop(container_id, None)
        if watched is not None:
            asyncio.get_running_loop().remove_reader(watched[1])
            os.close(watched[1])

    async def _hints(self, inbox: Inbox) -> AsyncIterator[ContainerId]:
        """Yield what pidfds and our own calls report; rescan from time to time."""
        loop = asyncio.get_running_loop()
        known: dict[ContainerId, Observation] | None = None
        scan_at = loop.time()
        try:
            while not inbox.is_closed:
                if loop.time() >= scan_at:
                    found = await self._scan(known)
                    for container_id in {} if known is None else _differences(known, found):
                        inbox.put(container_id)
                    known, scan_at = found, loop.time() + self._rescan_seconds
                for container_id in inbox.take():
                    yield container_id
                try:
                    async with asyncio.timeout_at(scan_at):
                        await inbox.woken.wait()
                except TimeoutError:
                    continue
        finally:
            self._inboxes.discard(inbox)

    async def _scan(self, known: Mapping[ContainerId, Observation] | None) -> dict[ContainerId, Observation]:
        try:
            seen = await self._in_thread(self._look_at_all)
        except EngineUnavailable:
            return dict(known or {})
        return {one.observation.ref.container_id: self._track(one) for one in seen}


@contextlib.contextmanager
def _held(runs_in: Identity) -> Iterator[Mapping[str, int]]:
    """Hold a shim for a process that is to end with it."""
    descriptor = runs_in.open()
    if descriptor is None:
        raise EngineRejected(Reason.ERROR, "the container has just ended")
    try:
        yield {"until": descriptor}
    finally:
        os.close(descriptor)


def _workdir(folder: Folder) -> Path:
    """Return where a container's command runs."""
    return Path(os.fsdecode(shim.read_whole(str(folder.path / shim.WORKDIR)) or b"/"))


def _disk_usage(root: Path) -> shutil._ntuple_diskusage:
    return shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists()))


def _can_be_executed(run: ContainerRun) -> bool:
    """Tell whether the kernel takes command and environment: no NUL, names without ``=``, encodable text."""
    try:
        os.fsencode("".join([run.cmd, *run.env.keys(), *run.env.values()]))
    except UnicodeEncodeError:
        return False
    names_are_good = all(name and "=" not in name for name in run.env)
    return names_are_good and not any("\0" in text for text in (run.cmd, *run.env, *run.env.values()))


def _differences(
    known: Mapping[ContainerId, Observation], found: Mapping[ContainerId, Observation]
) -> set[ContainerId]:
    return {key for key in known.keys() | found.keys() if known.get(key) != found.get(key)}
