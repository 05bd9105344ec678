"""An SSH gateway before a real engine, for OpenSSH's own programs.

The gateway lives on an event loop in a thread, as it does in the ingress's process; everything else here blocks, like
the people that it plays. ``ssh`` and its kin get a home of their own, so nothing of whoever runs the tests plays a
part.
"""

import asyncio
import os
import pty
import select
import socket
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

import uvloop

from muster.clock import SystemClock
from muster.engine.port import ContainerRun, Engine
from muster.model.ids import DeploymentId
from muster.model.password import hash_password
from muster.model.routes import Route, RouteState, RouteTable, SshRoute
from muster.ssh.gateway import SshGateway
from muster.ssh.hostkey import public_host_key
from muster.testing.conformance.engine import AT_ONCE, launch
from tests.unit.ssh.premises import free_port

T = TypeVar("T")

PASSWORD = "Correct2Horse3Batt"
PATIENCE_SECONDS = 60.0
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Done:
    """How a program ended."""

    code: int
    out: bytes
    err: str


class SshWorld:
    """One engine, one container of it that runs, and the gateway before it."""

    def __init__(self, folder: Path, engine: Callable[[], Engine], run: ContainerRun) -> None:
        self.user = folder / "user"
        self.user.mkdir(parents=True)
        self.port = free_port()
        self.container = run
        self._home = folder / "home"
        self._home.mkdir()
        self._make_engine = engine
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        self._revision = 0
        self.route = Route(
            container_uuid=run.uuid,
            container_id=run.ref.container_id,
            machine_id=run.ref.machine_id,
            generation=run.ref.generation,
            account_id=run.account_id,
            deployment_id=DeploymentId("0123456789"),
            state=RouteState.ACCEPT,
            ports=(),
            ssh=SshRoute(self.port, hash_password(PASSWORD, "salt")),
            is_running=True,
        )

    def __enter__(self) -> Self:
        self._thread.start()
        self.do(self._start())
        self.show(self.route)
        self.host_key = public_host_key(self._home)
        (self.user / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {self.host_key}\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something where the gateway runs."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    def show(self, *routes: Route) -> None:
        """Put routes in force."""
        self._revision += 1
        assert self.do(self._apply(RouteTable(1, self._revision, routes))) == {}

    def show_keys(self, *lines: str) -> None:
        """Let the owners of keys in."""
        assert self.route.ssh is not None
        self.show(replace(self.route, ssh=replace(self.route.ssh, keys=lines)))

    def stop_container(self) -> None:
        """End the container's run."""
        self.do(self.engine.stop(self.container.ref, AT_ONCE))

    # What a person types.

    def make_key(self, kind: str = "ed25519") -> tuple[Path, str]:
        """Make a key as people do; returns its file and its public line."""
        path = self.user / f"id_{kind}"
        if not path.exists():
            assert self.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path)]).code == 0
        return path, path.with_suffix(".pub").read_text()

    def by_key(self, *words: str, kind: str = "ed25519") -> list[str]:
        """Return the words of an ``ssh`` that has a key instead, and nobody between it and this process."""
        options = self.options(PreferredAuthentications="publickey")
        return ["ssh", *options, "-i", str(self.make_key(kind)[0]), "-p", str(self.port), "root@127.0.0.1", *words]

    @property
    def environ(self) -> Mapping[str, str]:
        """Nothing but what a shell would have."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.user), "SSHPASS": PASSWORD, "LC_ALL": "C.UTF-8"}

    def options(self, **changes: str) -> list[str]:
        """Return the options of every call: our known host, and a password."""
        settings = {
            "UserKnownHostsFile": str(self.user / "known_hosts"),
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": "yes",
            "PreferredAuthentications": "password",
            "ConnectTimeout": "10",
            **changes,
        }
        return ["-F", "none", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]

    def words(self, *words: str, **changes: str) -> list[str]:
        """Return the words of an ``ssh`` that is given the password."""
        return ["sshpass", "-e", "ssh", *self.options(**changes), "-p", str(self.port), "root@127.0.0.1", *words]

    def ssh(self, *words: str, stdin: bytes = b"", options: Mapping[str, str] = NO_OPTIONS) -> Done:
        """Run a command in the container."""
        return self.run(self.words(*words, **options), stdin=stdin)

    def run(self, words: Sequence[str], *, stdin: bytes = b"", environ: Mapping[str, str] | None = None) -> Done:
        """Run a program to its end."""
        done = subprocess.run(
            words,
            input=stdin,
            capture_output=True,
            env={**self.environ, **(environ or {})},
            cwd=self.user,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())

    def start(self, words: Sequence[str], **streams: Any) -> "subprocess.Popen[bytes]":
        """Start a program that goes on by itself."""
        return subprocess.Popen(words, env=self.environ, cwd=self.user, **streams)

    async def _start(self) -> None:
        self.engine = self._make_engine()
        await launch(self.engine, self.container)
        self.gateway = SshGateway(self.engine, home=self._home, host="127.0.0.1", clock=SystemClock())

    async def _apply(self, table: RouteTable) -> Mapping[int, str]:
        return await self.gateway.apply(table)

    async def _stop(self) -> None:
        await self.gateway.aclose()
        await self.engine.remove(self.container.ref)
        await self.engine.aclose()


class Terminal:
    """A terminal at which a person sits: what they see, and what they type."""

    def __init__(self, words: Sequence[str], *, size: tuple[int, int], **options: Any) -> None:
        self.screen = b""
        self._master, slave = pty.openpty()
        self.resize(*size)
        words = ["setsid", "--ctty", *words]  # which becomes the program itself
        self.process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, **options)
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def resize(self, columns: int, rows: int) -> None:
        """Draw the window larger or smaller."""
        termios.tcsetwinsize(self._master, (rows, columns))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def see(self, text: str) -> None:
        """Wait until something is on the screen; what comes after it is looked at next."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text.encode() not in self.screen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} does not appear: {self.screen!r}"
            if select.select([self._master], [], [], left)[0]:
                try:
                    self.screen += os.read(self._master, 1 << 16)
                except OSError:
                    assert text.encode() in self.screen, f"it ended: {self.screen!r}"
        self.screen = self.screen.partition(text.encode())[2]

    def end(self) -> int:
        """Wait until the program ends."""
        return self.process.wait(PATIENCE_SECONDS)


def until(claim: Callable[[], bool]) -> None:
    """Wait for a level."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answers(port: int) -> bool:
    """Tell whether somebody listens."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
