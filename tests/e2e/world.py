"""A Muster of a test's own, started as a user would start it: real processes, a home folder, a free port.

In: a folder. Out: ``cli`` (what a person types), ``client`` (what a program calls), and eyes that look past both, at
the kernel's processes, the engine's folders and the database's file.

Nothing here waits for time to pass: ``until`` waits for a level, with a deadline, and says what it was waiting for.
``close`` ends everything by ``muster down`` and then looks whether anything is left: a process that mentions the home
in its command line, environment or working directory, or a port that one of them listened on. Whatever is left fails
the test, and only then is it killed, by a pidfd that was checked to be of this home.
"""

import contextlib
import json
import os
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil

from muster.client import Client, Container, Event
from muster.errors import ApiUnavailable
from muster.home import PROFILE, Profile, read_profile
from muster.model.container import ContainerStatus
from muster.processes.engines import CONTAINERS
from muster.processes.locks import INGRESS_LOCK, holder_of
from muster.processes.server import LOCK as SERVER_LOCK
from muster.processes.up import LOCK as UP_LOCK
from muster.testing.belonging import belongs, processes_of
from muster.testing.bodies import create_body

T = TypeVar("T")

FLEET = "2x4xRTX 4090@lab-a,1x2xRTX 3090@lab-b"
MUSTER = str(Path(sys.executable).with_name("muster"))
SERVICE = Path(__file__).with_name("service.py")
SERVE = f"exec {sys.executable} -I -S {SERVICE}"
IDLE = "exec sleep 1000"
PATIENCE_SECONDS = 60.0
"""For a level. What it costs is a failure's time; it is many times what anything takes on a machine of one's own."""
COMMAND_SECONDS = 120.0
"""For a command, which may itself wait for a level: a rollout of three takes half a minute."""
_POLL_SECONDS = 0.03
_END_SECONDS = 20.0
_BLOCKS = count()
_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
_UNFINISHED = """
SELECT c.uuid, c.stop_reason IS NOT NULL OR d.deleted_at IS NOT NULL
FROM containers c JOIN deployments d ON d.id = c.deployment_id WHERE c.finished_at IS NULL
"""
_WAY_UP = tuple(ContainerStatus)[: ContainerStatus.SHUTTING_DOWN.rank]
_WAY_DOWN = (ContainerStatus.SHUTTING_DOWN, ContainerStatus.SHUTDOWN)


class World:
    """One home and what runs in it; ``user`` is an empty folder that plays the person's own."""

    words: tuple[str, ...] = ("--engine", "local", "--fake-gpus", FLEET)
    """What every server of this world is told beside its port."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.user = folder / "user"
        self.user.mkdir(parents=True)
        self.up_output = folder / "up.out"
        self.environ = {name: os.environ[name] for name in _KEPT if name in os.environ} | {
            "HOME": str(self.user),
            "MUSTER_HOME": str(self.home),
            "MUSTER_INGRESS_STATUS_PORT": "0",
            "MUSTER_BROKER_PORT": "0",
            **_next_ports(),
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self._ports: set[int] = set()

    def __enter__(self) -> Self:
        """Start it and wait until it serves."""
        try:
            self.up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End everything and see that nothing is left."""
        self.close()

    # What a person does.

    def up(self, *words: str, verb: str = "ready") -> "subprocess.Popen[bytes]":
        """Type ``muster up --port 0`` with this world's words and wait until it says that it is ready (or has adopted).

        A later ``--engine`` among the words is the one that counts.
        """
        begin = self.up_output.stat().st_size if self.up_output.exists() else 0
        with self.up_output.open("ab") as output:
            process = subprocess.Popen(
                [MUSTER, "up", "--port", "0", *self.words, *words],
                env=self.environ,
                cwd=self.user,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.adopt(process)

        def is_ready() -> bool:
            assert process.poll() is None, f"muster up ended with {process.returncode}"
            return f"muster is {verb} at http" in self.up_output.read_text()[begin:]

        self.until(is_ready, f"up says {verb!r}")
        return process

    def start_server(self) -> "subprocess.Popen[bytes]":
        """Type ``muster server`` where the last one was; it is not waited for."""
        port = self.profile.url.rpartition(":")[2]
        with self.up_output.open("ab") as output:
            return self.adopt(
                subprocess.Popen(
                    [MUSTER, "server", "--port", port, *self.words],
                    env=self.environ,
                    cwd=self.user,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )

    def start_ingress(self) -> "subprocess.Popen[bytes]":
        """Start an ingress as ``up`` would, on this world's ports; it is not waited for."""
        with self.up_output.open("ab") as output:
            return self.adopt(
                subprocess.Popen(
                    [MUSTER, "ingress"],
                    env=self.environ,
                    cwd=self.user,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )

    def adopt(self, process: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
        """Wait for a process too when this world ends."""
        self._started.append(process)
        return process

    def run(self, *words: str, stdin: str = "", environ: Mapping[str, str] | None = None) -> "Result":
        """Type one command and wait for its end."""
        done = subprocess.run(
            [MUSTER, *words],
            env={**self.environ, **(environ or {})},
            cwd=self.user,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def cli(self, *words: str, stdin: str = "") -> str:
        """Type one command that succeeds; returns its output."""
        result = self.run(*words, stdin=stdin)
        assert result.code == 0, f"muster {' '.join(words)}: {result}"
        return result.out

    def listed(self, *words: str, stdin: str = "") -> Any:
        """Type one command with ``-o json``; returns what it printed."""
        return json.loads(self.cli(*words, "-o", "json", stdin=stdin))

    def follow(self, *words: str) -> "subprocess.Popen[str]":
        """Start a command that goes on by itself."""
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # inherited, if these tests run in the background
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(
            [MUSTER, *words],
            env=self.environ,
            cwd=self.user,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    # What a program does.

    @property
    def profile(self) -> Profile:
        """What ``up`` left for the next command."""
        profile = read_profile(self.home / PROFILE)
        assert profile is not None
        return profile

    def trust(self) -> ssl.SSLContext:
        """Return what trusts this world's authority, and no other."""
        return ssl.create_default_context(cafile=str(self.home / "tls" / "ca.pem"))

    @property
    def registry_url(self) -> str:
        """Where this home publishes its services."""
        return (self.home / "registry").as_uri()

    def client(self) -> Client:
        """Return a client with the admin's token."""
        return Client(self.profile.url, self.profile.token)

    def ask(self, question: Callable[[Client], T]) -> T:
        """Ask the API once."""
        with self.client() as client:
            return question(client)

    def deploy(self, name: str, replicas: int, cmd: str = IDLE, *, is_service: bool = False) -> str:
        """Create a ReplicaSet and wait until all replicas are ready; returns its uuid."""
        uuid = self.ask(lambda client: client.create_deployment(body(name, replicas, cmd, is_service=is_service)))
        live = self.until_ready(uuid, replicas)
        # That it runs is written down just before its command is begun.
        self.until(lambda: {each.uuid for each in live} <= self.commands().keys(), "their commands have begun")
        return uuid

    def scale(self, deployment_uuid: str, replicas: int) -> None:
        """Ask for that many until a server has heard."""
        self.hear(lambda client: client.scale_deployment(deployment_uuid, replicas))

    def hear(self, order: Callable[[Client], object]) -> None:
        """Give an order until a server has heard it; it may be heard twice."""

        def give() -> bool:
            self.ask(order)
            return True

        self.until(give, "a server hears")

    def events(self) -> list[Event]:
        """Return all events, oldest first."""
        return self.ask(lambda client: list(client.events(after=0, follow=False)))

    def live(self, deployment_uuid: str) -> list[Container]:
        """Return containers that are not over, oldest first."""
        found = self.ask(lambda client: client.containers_of(deployment_uuid))
        return [each for each in found if each.status != ContainerStatus.SHUTDOWN]

    def until_ready(self, deployment_uuid: str, count: int) -> list[Container]:
        """Wait until exactly ``count`` containers are left, all of them ready; returns them."""

        def settled() -> list[Container] | None:
            live = self.live(deployment_uuid)
            return live if len(live) == count and all(each.is_ready for each in live) else None

        return self.until(lambda: _some(settled()), f"{count} containers of {deployment_uuid} ready")[0]

    def until_settled(self) -> None:
        """Wait until exactly the containers run that Muster wants to run."""

        def is_settled() -> bool:
            rows = self.rows(_UNFINISHED)
            return not any(is_ending for _, is_ending in rows) and self.commands().keys() == {uuid for uuid, _ in rows}

        self.until(is_settled, "nothing runs but what is wanted")

    def until(self, level: Callable[[], T | None], what: str, seconds: float = PATIENCE_SECONDS) -> T:
        """Return the first truthy answer; a server that is away is no answer."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(ApiUnavailable):
                answer = level()
                if answer:
                    return answer
            assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}\n{self.said()}"
            time.sleep(_POLL_SECONDS)

    # What is really there.

    @property
    def server_pid(self) -> int:
        """The process that serves now."""
        holder = self.until(lambda: holder_of(self.home / SERVER_LOCK), "a server")
        assert holder is not None
        return holder.pid

    @property
    def ingress_pid(self) -> int:
        """The process that has the addresses now."""
        holder = self.until(lambda: holder_of(self.home / INGRESS_LOCK), "an ingress")
        assert holder is not None
        return holder.pid

    @property
    def up_pid(self) -> int | None:
        """The supervisor, if there is one."""
        holder = holder_of(self.home / UP_LOCK)
        return None if holder is None else holder.pid

    def kill_server(self) -> int:
        """Kill the server and wait until another one answers; returns the new one's pid."""
        killed = self.server_pid
        self.kill(killed)
        self.until(lambda: self.server_pid != killed and self.ask(lambda client: client.is_ready()), "a new server")
        return self.server_pid

    def kill(self, pid: int) -> None:
        """Kill a process of this home, checked to be one, and wait until it is gone."""
        process = psutil.Process(pid)
        assert self.is_ours(process), f"{process} is not of {self.home}"
        process.kill()
        self.until(lambda: not is_alive(process), f"the end of {process}")
        for started in self._started:
            started.poll()

    def is_ours(self, process: psutil.Process) -> bool:
        """Whether a process mentions this home, or the user's folder in it."""
        return belongs(process, self.home.parent)

    def processes(self) -> list[psutil.Process]:
        """Return every living process of this home."""
        return processes_of(self.home.parent)

    def commands(self) -> dict[str, list[psutil.Process]]:
        """Return the processes of each container, by its uuid: what the kernel knows, not what Muster believes."""
        found: dict[str, list[psutil.Process]] = {}
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                environ = process.environ()
                while not environ and process.status() != psutil.STATUS_ZOMBIE:
                    environ = process.environ()  # in the middle of an exec it has none
                uuid = environ.get("MUSTER_CONTAINER_UUID")
                if uuid:
                    found.setdefault(uuid, []).append(process)
        return found

    def command_lines(self) -> list[tuple[int, list[str]]]:
        """Return every living process of this home with its words; one that ends meanwhile has none to tell."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                found.append((process.pid, process.cmdline()))
        return found

    def pids(self) -> dict[str, set[int]]:
        """Return the pids of each container."""
        return {uuid: {each.pid for each in found} for uuid, found in self.commands().items()}

    def shim_pid(self, container_uuid: str) -> int:
        """Return the process that keeps a container."""
        for card in self.home.joinpath(CONTAINERS).glob("*/container.json"):
            if json.loads(card.read_text())["uuid"] == container_uuid:
                return int(card.with_name("run").read_text().splitlines()[1])
        raise AssertionError(f"{container_uuid} has no folder")

    def rows(self, query: str) -> list[Any]:
        """Ask the database's file."""
        with contextlib.closing(sqlite3.connect(self.home / "muster.db", timeout=5)) as connection:
            return connection.execute(query).fetchall()

    def write(self, statement: str) -> None:
        """Change the database's file behind everybody's back."""
        with contextlib.closing(sqlite3.connect(self.home / "muster.db", timeout=5)) as connection, connection:
            connection.execute(statement)

    def said(self) -> str:
        """Return what supervisor and server wrote, for the message of a failure."""
        logs = [self.up_output, self.home / "logs" / "server.log", self.home / "logs" / "ingress.log"]
        return "".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in logs if log.exists())

    # The end.

    def close(self) -> None:
        """End everything; fails if anything is left."""
        self.remember_ports()
        down = self.run("down") if self.processes() else Result(0, "", "")
        for process in self._started:
            process.wait(PATIENCE_SECONDS)
        left = self._left_after(_END_SECONDS)
        listening = {port for each in psutil.net_connections("tcp") for port in _listened(each)}
        for survivor in self.processes():
            survivor.kill()
        assert down.code == 0, down
        assert not left, f"left behind in {self.home}: {left}"
        assert not listening & self._ports, "ports are still listened on"

    def remember_ports(self) -> None:
        """Note which ports this home listens on, to look at the end whether they are free."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                self._ports |= {port for each in process.net_connections("tcp") for port in _listened(each)}

    def _left_after(self, seconds: float) -> list[str]:
        deadline = time.monotonic() + seconds
        while (left := [str(each) for each in self.processes()]) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return left


def _next_ports() -> dict[str, str]:
    """Return ranges of ingress ports that no other living world of this process has; enough for one that churns."""
    block = next(_BLOCKS) % 8
    first, ssh = 20_000 + 600 * block, 25_000 + 600 * block
    return {"MUSTER_INGRESS_PORTS": f"{first}-{first + 599}", "MUSTER_SSH_PORTS": f"{ssh}-{ssh + 599}"}


class Result:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"code {self.code}\n{self.out}\n{self.err}"


def body(name: str, replicas: int, cmd: str, *, is_service: bool = False) -> dict[str, Any]:
    """Return a create body; what is no service is ready as soon as it runs."""
    check = {"path": "/healthz", "interval_seconds": 0.5} if is_service else None
    template = {"gpu_name_set": ["RTX 4090"]}
    return create_body(name, replica_num=replicas, cmd=cmd, template=template, service={"health_check": check})


def assert_legal(events: Sequence[Event]) -> None:
    """Every event once, in order; every container through its states in theirs, skipping only towards its end."""
    ids = [event.id for event in events]
    assert ids == sorted(set(ids))
    for uuid, own in _by_container(events):
        statuses = [ContainerStatus(event.status) for event in own if event.kind == "status"]
        up = [status for status in statuses if status not in _WAY_DOWN]
        down = statuses[len(up) :]
        assert up == list(_WAY_UP[: len(up)]), f"{uuid}: {statuses}"
        assert up, f"{uuid}: {statuses}"
        assert down == list(_WAY_DOWN[: len(down)]), f"{uuid}: {statuses}"
        kinds = [event.kind for event in own if event.kind in ("ready", "unready")]
        assert kinds == (["ready", "unready"] * len(kinds))[: len(kinds)], f"{uuid}: {kinds}"


def _by_container(events: Sequence[Event]) -> Iterator[tuple[str, list[Event]]]:
    ordered = sorted(events, key=lambda event: (event.container_uuid, event.id))
    return ((uuid, list(own)) for uuid, own in groupby(ordered, key=lambda event: event.container_uuid))


def _listened(connection: Any) -> set[int]:
    return {connection.laddr.port} if connection.status == psutil.CONN_LISTEN else set()


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs: one that ended and was not collected does not.

    A killed process looks like that as soon as its first thread has ended; others may still hold its files and locks.
    """
    try:
        if not process.is_running():
            return False
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.Error:
        return False


def _some(found: list[T] | None) -> list[list[T]]:
    """Return a truthy answer also for an empty list, and a falsy one for ``None``."""
    return [] if found is None else [found]
