"""The folder of one object on the host: what its container reads at each start, and what we note about it.

::

    card.json       which run the object is now, and what Docker said of it before
    run/            read by the container (/.muster/run): scripts, command, before, env, platform, run
    state/          written by the container (/.muster/state): an empty folder for the start of each run, and one more
                    if that was ordered twice
    tmp/            /root/autodl-tmp
    stop.json       the stop sequence, once it was ordered, and how far it has come
    heard           what Docker told of the run in events, a line each: out of memory, signals
    end.json        why the run ended, once that was found out

A folder outlives the runs of its object: when a container is used again, its card and ``run`` are written anew and
``tmp`` stays. Which run an object is says its *name* in Docker, which changes in one step; the card only adds what a
name cannot hold. All functions block and are called in threads; files appear whole or not at all (``heard`` grows by
whole lines), readable by their owner only, because ``env`` holds what may be secret.
"""

import contextlib
import datetime
import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from muster.model.ids import ContainerId, MachineId
from muster.model.run import ContainerRun, Ref, StopOrder

RUN, STATE, TMP = "run", "state", "tmp"
OOM = "oom"
_CARD, _STOP, _HEARD, _END = "card.json", "stop.json", "heard", "end.json"
_BEFORE = f"{RUN}/before"
_SCRIPTS = ("entry.sh", "stay.sh", "exec.sh", "shell.sh")
_PLATFORM = ("AutoDL", "MUSTER_")
_KEPT_BY_BASH = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"})


@dataclass(frozen=True, slots=True)
class Card:
    """What we note about an object's present run.

    ``started_before``: Docker's start time of the object when it was made this run; as long as Docker still says that,
    this run has not been started. ``starting_at``: before its output begins (``None``: not ordered yet). ``boot_id``:
    the kernel's name of the boot in which it was started.
    """

    machine_id: MachineId
    container_id: ContainerId
    generation: int
    account_id: int
    started_before: str = ""
    starting_at: float | None = None
    boot_id: str = ""

    @property
    def ref(self) -> Ref:
        """The run."""
        return Ref(self.machine_id, self.container_id, self.generation)


@dataclass(frozen=True, slots=True)
class Stopping:
    """A stop sequence, as it was first ordered, and how far it has come. Times are in seconds since the epoch."""

    order: StopOrder
    begun_at: float
    is_before_run: bool = False
    term_at: float | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """Something that Docker told in an event, at a time in seconds since the epoch.

    ``what`` is ``OOM``, a process was killed for want of memory, or the number of a signal that it sent.
    """

    at: float
    what: str


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a run ended, beside its exit code.

    ``killed_by``: the number of the signal that somebody had Docker send (0: nobody). ``engine_ended``: it was Docker's
    own end that ended it. ``host_ended``: the machine was restarted under it. ``was_started_twice``: its end was not
    seen, because Docker was ordered to start it once more.
    """

    had_oom: bool = False
    killed_by: int = 0
    engine_ended: bool = False
    host_ended: bool = False
    was_started_twice: bool = False


class Folder:
    """One object's folder; it need not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """What Docker's label calls it."""
        return self.path.name

    def exists(self) -> bool:
        """Whether there is a card."""
        return (self.path / _CARD).exists()

    def make(self) -> None:
        """Make the folders that Docker mounts."""
        for name in (RUN, STATE, TMP):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)

    def write_run(self, run: ContainerRun, *, started_before: str) -> None:
        """Become the folder of a run: what it reads, and the card, last; the notes of the run before are gone."""
        for name in (_STOP, _HEARD, _END, _BEFORE):
            (self.path / name).unlink(missing_ok=True)
        for name in _SCRIPTS:
            script = resources.files(__package__).joinpath(name).read_bytes()
            self._write(f"{RUN}/{name}", script)
        platform = {name: value for name, value in run.env.items() if name.startswith(_PLATFORM)}
        own = {name: value for name, value in run.env.items() if name not in platform}
        self._write(f"{RUN}/platform", _exports(platform))
        self._write(f"{RUN}/env", _exports(own))
        self._write(f"{RUN}/command", run.cmd.encode())
        self._write(f"{RUN}/run", f"_muster_token={_token(run.ref)}\n".encode())
        card = Card(run.ref.machine_id, run.ref.container_id, run.ref.generation, run.account_id, started_before)
        self.write_card(card)

    def write_card(self, card: Card) -> None:
        """Replace the card."""
        self._write(_CARD, json.dumps(asdict(card), indent=1).encode())

    def card(self) -> Card | None:
        """Return the card; ``None`` when there is none, or one that cannot be read."""
        try:
            return Card(**json.loads((self.path / _CARD).read_bytes()))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None

    def order_stop(self, order: StopOrder, now: float) -> Stopping:
        """Write a stop order, unless there is one; return the one that counts.

        A disk that is full must not keep anything from being ended: then nobody can carry the order on.
        """
        stopping = self.stopping()
        if stopping is None:
            stopping = Stopping(order, now)
            with contextlib.suppress(OSError):
                self.write_stopping(stopping)
        return stopping

    def write_stopping(self, stopping: Stopping) -> None:
        """Replace the stop order."""
        self._write(_STOP, json.dumps(asdict(stopping)).encode())

    def stopping(self) -> Stopping | None:
        """Return the stop order, if there is one."""
        try:
            found = json.loads((self.path / _STOP).read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return Stopping(**{**found, "order": StopOrder(**found["order"])})

    def write_before(self, command: str) -> None:
        """Write the command before shutdown where the container finds it."""
        self._write(_BEFORE, command.encode())

    def note(self, heard: Heard) -> None:
        """Add to what was heard; nothing if that cannot be written, or the folder is gone."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path / _HEARD, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(f"{heard.at!r} {heard.what}\n".encode())

    def heard(self) -> Sequence[Heard]:
        """Return what was heard, oldest first."""
        try:
            words = [line.split() for line in (self.path / _HEARD).read_text(encoding="ascii").splitlines()]
        except (FileNotFoundError, NotADirectoryError):
            return ()
        return [Heard(float(each[0]), each[1]) for each in words if len(each) == 2]

    def write_end(self, started_at: str, cause: Cause) -> None:
        """Remember why the run ended that Docker says was started then; nothing if that cannot be written."""
        with contextlib.suppress(OSError):
            self._write(_END, json.dumps({"started_at": started_at, "cause": asdict(cause)}).encode())

    def end(self, started_at: str) -> Cause | None:
        """Return why the run ended that Docker says was started then, if that was found out."""
        try:
            found = json.loads((self.path / _END).read_bytes())
            return Cause(**found["cause"]) if found["started_at"] == started_at else None
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
            return None

    def was_begun(self, ref: Ref) -> bool:
        """Tell whether the command of a run was begun inside its container, whatever Docker says."""
        return (self.path / STATE / _token(ref)).exists()

    def was_started_twice(self, ref: Ref) -> bool:
        """Tell whether a second start of a run was refused inside its container."""
        return (self.path / STATE / f"{_token(ref)}.again").exists()

    def destroy(self) -> None:
        """Delete everything; what is not there, or goes meanwhile, is no error."""
        shutil.rmtree(self.path, onerror=_raise_unless_gone)

    def _write(self, name: str, content: bytes) -> None:
        target = self.path / name
        if _holds(target, content):  # most of a reuse: ext4 writes out what replaces another, 0.6 ms each
            return
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        draft.replace(target)


def _raise_unless_gone(function: object, path: str, info: tuple[object, BaseException, object]) -> None:
    del function, path
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False


def _token(ref: Ref) -> str:
    return f"{ref.container_id}.{ref.generation}"


def boot_id() -> str:
    """Return what the kernel calls this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def booted_at() -> datetime.datetime:
    """Return when this boot began, to the second."""
    lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    return from_epoch(next(float(line.split()[1]) for line in lines if line.startswith("btime ")))


def from_epoch(seconds: float) -> datetime.datetime:
    """Return a moment as the model has it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _exports(env: Mapping[str, str]) -> bytes:
    return "".join(f"{_export(name)} {name}={shlex.quote(value)}\n" for name, value in env.items()).encode()


def _export(name: str) -> str:
    """Return the word that sets a variable; a shell that reads a file must not end at one that it keeps for itself."""
    return "command export" if name in _KEPT_BY_BASH else "export"
