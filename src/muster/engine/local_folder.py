"""A container of the local engine as it lies on disk: everything that is known of it is in its folder.

``shim.py`` says which files there are and who may write them when. The engine adds ``container.json``, what the
container is (never its environment), and reads the rest back as an ``Observation``. Because nothing is remembered
elsewhere, an engine that was just made knows as much as one that ran all along.

A folder appears and disappears by a rename (``.new-…`` before, ``.trash-…`` after), so there is never half a one.

What ``look`` finds when the run ended without a record:

* the machine was restarted since: ``machine_lost``, because it is the machine that ended it, not the command;
* the shim was killed: everything of the run is ended first, then ``error`` with a message that says so.

All functions here block and are called in threads.
"""

import datetime
import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from muster.engine import shim
from muster.engine.local_ports import Ports
from muster.engine.local_process import MARKER, Identity, sweep
from muster.engine.port import ContainerRun, Observation, Phase, Ref, StopOrder
from muster.errors import EngineUnavailable
from muster.model.container import Address, Reason
from muster.model.deployment import PORTS
from muster.model.ids import ContainerId, MachineId

_CARD = "container.json"
_WORK = "work"
_HALF_MADE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Card:
    """What a container is, as far as the engine must know it again."""

    ref: Ref
    ports: Mapping[int, int]
    marker: str

    @property
    def addresses(self) -> Mapping[int, Address]:
        """Where it answers once its command has bound the ports."""
        return MappingProxyType({port: Address("127.0.0.1", bound) for port, bound in self.ports.items()})


@dataclass(frozen=True, slots=True)
class Seen:
    """An observation, with the shim while there is one."""

    observation: Observation
    shim: Identity | None = None


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of one existing container."""

    path: Path
    card: Card

    @property
    def ref(self) -> Ref:
        """The run that lives here."""
        return self.card.ref

    def look(self) -> Seen:
        """Return what is there; ends and records a run whose shim is gone."""
        base = Observation(self.ref, Phase.CREATED, self.card.addresses)
        ended = self._read_exit()
        run = self._read_run()
        if run is None:
            return Seen(_with_exit(base, ended) if ended else base)
        identity, started_at = run
        base = replace(base, started_at=started_at)
        if ended:
            return Seen(_with_exit(base, ended))
        if identity.boot_id == shim.boot_id():
            lock = shim.try_lock(str(self.path / shim.LOCK), 0)
            if lock is None:
                return Seen(replace(base, phase=Phase.RUNNING), identity)
            os.close(lock)
        return Seen(_with_exit(base, self._bury()))

    def stop_unstarted(self) -> bool:
        """Record the end of what never ran; returns False when a run has begun after all."""
        lock = shim.try_lock(str(self.path / shim.LOCK), 0.5)
        if lock is None:
            return False
        try:
            if (self.path / shim.RUN).exists():
                return False
            if self._read_exit() is None:
                self._write(shim.EXIT, shim.exit_record(None, message=shim.NEVER_STARTED))
            return True
        finally:
            os.close(lock)

    def order_stop(self, order: StopOrder) -> None:
        """Write the stop order, unless there is one, and tell the shim if it runs.

        The shim marks the run first and looks for the order after that; the order is written first and the marker
        looked for after that. So one of the two always sees the other.
        """
        content = f"{order.before_seconds} {order.term_seconds}\n{order.cmd_before_shutdown}"
        draft = self.path / f"stop.{secrets.token_hex(4)}"
        shim.write_whole(str(draft), content.encode())
        try:
            os.link(draft, self.path / shim.STOP)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        run = self._read_run()
        if run is not None:
            run[0].signal(signal.SIGUSR1)

    def destroy(self, trash: Path, ports: Ports) -> None:
        """End what runs, without grace, and delete everything. Raises ``EngineUnavailable``.

        The lock is held to the end, so that a shim that was spawned by an engine that died cannot start meanwhile.
        """
        lock = self._end_now()
        try:
            if (self.path / shim.RUN).exists() and self._read_exit() is None and not sweep(self.card.marker):
                raise EngineUnavailable(f"processes of {self.ref.container_id} do not end")
            if self._read_exit() is None:
                self._write(shim.EXIT, shim.exit_record(None, message="removed"))
            self.path.rename(trash)
            ports.release(list(self.card.ports.values()), self.ref.container_id)
            delete_tree(trash)
        finally:
            os.close(lock)

    def _end_now(self) -> int:
        """Return the lock, having ended whoever held it."""
        deadline = time.monotonic() + 10
        patience = time.monotonic() + 5
        while time.monotonic() < deadline:
            run = self._read_run()
            if run is not None and self._read_exit() is None:
                run[0].signal(signal.SIGUSR2 if time.monotonic() < patience else signal.SIGKILL)
            lock = shim.try_lock(str(self.path / shim.LOCK), 0.1)
            if lock is not None:
                return lock
        raise EngineUnavailable(f"the shim of {self.ref.container_id} does not end")

    def _bury(self) -> "_Exit":
        """Record the end of a run that lost its shim, after ending what is left of it."""
        lock = shim.try_lock(str(self.path / shim.LOCK), 10)
        if lock is None:
            raise EngineUnavailable(f"somebody else is ending {self.ref.container_id}")
        try:
            ended = self._read_exit()
            if ended is not None:
                return ended
            run = self._read_run()
            assert run is not None
            if run[0].boot_id != shim.boot_id():
                reason, message = Reason.MACHINE_LOST, "the machine was restarted while it ran"
            else:
                if not sweep(self.card.marker):
                    raise EngineUnavailable(f"processes of {self.ref.container_id} do not end")
                reason, message = Reason.ERROR, "its shim was killed, so its exit code is unknown; what ran was ended"
            self._write(shim.EXIT, shim.exit_record(None, reason, message))
            ended = self._read_exit()
            assert ended is not None
            return ended
        finally:
            os.close(lock)

    def _read_run(self) -> tuple[Identity, datetime.datetime] | None:
        content = shim.read_whole(str(self.path / shim.RUN))
        if content is None:
            return None
        boot_id, pid, start_time, started_at = content.decode().splitlines()
        return Identity(boot_id, int(pid), int(start_time)), _time(started_at)

    def _read_exit(self) -> "_Exit | None":
        content = shim.read_whole(str(self.path / shim.EXIT))
        if content is None:
            return None
        code, finished_at, reason, message = content.decode().split("\n", 3)
        return _Exit(
            None if code == "-" else int(code), _time(finished_at), Reason(reason) if reason else None, message.strip()
        )

    def _write(self, name: str, content: bytes) -> None:
        shim.write_whole(str(self.path / name), content, is_durable=True)


@dataclass(frozen=True, slots=True)
class _Exit:
    exit_code: int | None
    finished_at: datetime.datetime
    reason: Reason | None
    message: str


def find(root: Path, container_id: ContainerId) -> Folder | None:
    """Return a container's folder, ``None`` when there is none."""
    return _open(root / container_id)


def find_all(root: Path) -> Iterator[Folder]:
    """Yield every container of a root."""
    try:
        paths = [entry for entry in root.iterdir() if not entry.name.startswith(".")]
    except FileNotFoundError:
        return
    for path in sorted(paths):
        folder = _open(path)
        if folder is not None:
            yield folder


def make(root: Path, run: ContainerRun, ports: Ports, workdir: Path | None, basics: Mapping[str, str]) -> Folder:
    """Make a container's folder; whoever made it first wins."""
    owner = run.ref.container_id
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = root / f".new-{owner}-{secrets.token_hex(4)}"
    new.mkdir(mode=0o700)
    bound = dict(zip(PORTS, ports.reserve(owner, len(PORTS)), strict=True))
    card = Card(run.ref, bound, secrets.token_hex(16))
    path = root / owner
    (new / _WORK).mkdir()
    gpus = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, run.gpu_indices))}
    environ = {**basics, **gpus, **_addresses_of(bound), **run.env, **_ports_of(bound), MARKER: card.marker}
    for name, content in {
        shim.COMMAND: os.fsencode(run.cmd),
        shim.ENVIRON: b"".join(os.fsencode(f"{name}={value}\0") for name, value in environ.items()),
        shim.WORKDIR: os.fsencode(workdir or path / _WORK),
        _CARD: _card_to_json(card, run).encode(),
    }.items():
        shim.write_whole(str(new / name), content)
    try:
        new.rename(path)
    except OSError:
        ports.release(list(bound.values()), owner)
        delete_tree(new)
        existing = _open(path)
        if existing is None:
            raise
        return existing
    return Folder(path, card)


def clean(root: Path, ports: Ports) -> None:
    """Delete what a crash left half made or half deleted, and ports without an owner."""
    if not root.is_dir():
        return
    names = {entry.name for entry in root.iterdir()}
    for name in names:
        entry = root / name
        is_old = name.startswith(".new-") and time.time() - entry.stat().st_mtime > _HALF_MADE_SECONDS
        if name.startswith(".trash-") or is_old:
            delete_tree(entry)
    owners = {name.removeprefix(".new-").rpartition("-")[0] for name in names if name.startswith(".new-")}
    ports.release_orphans(lambda owner: owner in owners or (root / owner).exists())


def trash_path(root: Path, container_id: ContainerId) -> Path:
    """Return a name to delete a container under."""
    return root / f".trash-{container_id}-{secrets.token_hex(4)}"


def delete_tree(path: Path) -> None:
    """Delete a folder, also one in which the container made folders read-only."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        for folder, _, _ in os.walk(path):
            Path(folder).chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)


def _open(path: Path) -> Folder | None:
    content = shim.read_whole(str(path / _CARD))
    if content is None:
        return None
    card = json.loads(content)
    ref = Ref(MachineId(card["machine_id"]), ContainerId(card["container_id"]), card["generation"])
    return Folder(path, Card(ref, {int(port): bound for port, bound in card["ports"].items()}, card["marker"]))


def _card_to_json(card: Card, run: ContainerRun) -> str:
    return json.dumps(
        {
            "machine_id": run.ref.machine_id,
            "container_id": run.ref.container_id,
            "generation": run.ref.generation,
            "uuid": run.uuid,
            "account_id": run.account_id,
            "gpu_indices": run.gpu_indices,
            "ports": card.ports,
            "marker": card.marker,
        },
        indent=1,
    )


def _ports_of(ports: Mapping[int, int]) -> dict[str, str]:
    """Return what only the engine knows: the ports to bind."""
    return {f"MUSTER_PORT_{port}": str(bound) for port, bound in ports.items()}


def _addresses_of(ports: Mapping[int, int]) -> dict[str, str]:
    """Return the addresses of those ports; an ingress has others, and who ordered the run then says so."""
    urls = {port: f"http://127.0.0.1:{bound}" for port, bound in ports.items()}
    return {
        **{f"AutoDLService{port}URL": url for port, url in urls.items()},
        "AutoDLServiceURL": urls[PORTS[0]],
    }


def _with_exit(base: Observation, ended: _Exit) -> Observation:
    return replace(
        base,
        phase=Phase.EXITED,
        finished_at=ended.finished_at,
        exit_code=ended.exit_code,
        reason=ended.reason,
        message=ended.message,
    )


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(float(text), datetime.UTC)
