"""A Docker daemon of a test's own: nobody else's containers are in it, and nothing of it is left behind.

In: options. Out: a ``url`` for the engine under test, ``docker`` for what a person would type beside it, and the ways
in which a daemon fails: ``stop`` (as an operator does), ``kill`` (SIGKILL), ``pause`` and ``resume`` (it hangs), and a
disk that is too small. Every call blocks until it is done: where a test's loop must go on meanwhile, ``to_thread``.

dockerd starts a containerd of its own, which the kernel ends with it. Shims and containers live on after ``kill``;
the next ``start`` adopts the containers if ``live_restore`` is set, and else ends them. Both daemons leave a file with
their process id, which dockerd believes while nobody has reaped that process (on some hosts for seconds); ``kill``
deletes it.

**Several at once.** Every daemon draws its networks from a /16 of its own in 10.0.0.0/8, claimed by an abstract socket
that the kernel frees with this process. Containers are reached by their addresses; there is no default bridge, so a
container has a network only if it is given one. The chains of iptables are the host's: a daemon that starts empties
``DOCKER-ISOLATION-STAGE-*``, which other daemons' *older* networks then lack. A test of isolation makes its networks
itself, after the last start of a daemon, or restarts its daemon.

**Nothing is left,** whatever a test did to its daemon, if ``close`` is called. A process that is killed cannot, and a
test's time limit kills: the daemon then runs on until the next ``close_abandoned``, which the fixtures call. It knows
such a daemon by the lock on ``owner``, which the kernel gives up with the owner.

**Shared mounts.** On a host whose root is no shared mount, unlike one that systemd has booted, dockerd mounts its data
upon itself and takes that away when it ends. What it mounted since, for a container that was just being started, is
then hidden by the next start, and can never be removed. So the data is such a mount from the beginning.

**Short paths.** A socket's path has at most 107 characters, and containerd's is below the folder; hence ``/tmp/md…``.
"""

import contextlib
import fcntl
import http.client
import ipaddress
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil

from tests.docker import remains
from tests.docker.images import Image

NETWORKS = ipaddress.IPv4Network("10.0.0.0/8")
"""Where the addresses of every daemon's containers are."""
_TOP = Path("/tmp")
_PREFIX = "md"
_OWNER = "owner"
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_COMMAND_SECONDS = 120.0
_LONGEST_FOLDER = 60
_POLL_SECONDS = 0.02


class Daemon:
    """One private dockerd. ``path`` is put before PATH; ``disk_bytes`` makes its data a tmpfs of that size."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        live_restore: bool = False,
        path: Sequence[Path] = (),
        disk_bytes: int | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_TOP)) if folder is None else folder
        assert len(str(self.folder)) <= _LONGEST_FOLDER, f"{self.folder}: too long for the sockets below it"
        self.data = self.folder / "data"
        self.socket = self.folder / "docker.sock"
        self.log = self.folder / "dockerd.log"
        self.cgroup = _cgroup(self.folder)
        self._exec = self.folder / "exec"
        self._pid_file = self.folder / "dockerd.pid"
        self._live_restore = live_restore
        self._path = path
        self._options = options
        self._pool, self._claim = _claim_pool()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = _owned(self.folder)
        self.data.mkdir(parents=True, exist_ok=True)
        kind = ("--bind", self.data) if disk_bytes is None else ("-t", "tmpfs", "-o", f"size={disk_bytes}", "tmpfs")
        subprocess.run(["mount", *kind, self.data], check=True)
        subprocess.run(["mount", "--make-shared", self.data], check=True)

    def __enter__(self) -> Self:
        """Start it."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it with everything in it."""
        self.close()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int | None:
        """The process, while it lives."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    # Its life.

    def start(self) -> None:
        """Start it unless it runs, and wait until it answers."""
        if self.pid is not None:
            return
        self._pid_file.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["dockerd", *self._flags()],
                env={**os.environ, "PATH": os.pathsep.join([*map(str, self._path), os.environ["PATH"]])},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._until(self.answers, _START_SECONDS, "dockerd answers")

    def stop(self) -> None:
        """End it as an operator does; without ``live_restore`` its containers end first."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL; its containers run on until the next start."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End it as an operator does, and start it again."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang: it takes connections and answers nobody."""
        pid = self.pid
        assert pid is not None, "no daemon to pause"
        os.kill(pid, signal.SIGSTOP)  # which returns before every thread has heard of it
        self._until(lambda: _is_stopped(pid), _STOP_SECONDS, "dockerd hangs")

    def resume(self) -> None:
        """Let it go on, if it hung."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it with everything in it; nothing is left, whatever state it was in. A second time changes nothing."""
        if not self.folder.exists():
            return
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            self.resume()
            self.start()
            self.clear()
            self.stop()
        if self.pid is not None:
            self.kill()
        remains.end(self.folder, self.cgroup)
        shutil.rmtree(self.folder)
        self._claim.close()
        self._owner.close()

    # What a test asks of it.

    def docker(self, *words: str, stdin: bytes | None = None) -> str:
        """Run ``docker WORDS`` against it; returns its output without the last newline."""
        command = ["docker", "--config", str(self.folder / "cli"), "--host", self.url, *words]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=_COMMAND_SECONDS, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"docker {' '.join(words)}: {done.stderr.decode().strip()}")
        return done.stdout.decode().rstrip("\n")

    def load(self, image: Image, reference: str) -> None:
        """Give it an image by that name."""
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            archive = Path(scratch) / "image.tar"
            image.write_archive(archive, reference)
            self.docker("load", "--quiet", "--input", str(archive))

    def clear(self) -> None:
        """Remove every container and network; images stay."""
        self._until(self._is_empty, _STOP_SECONDS, "the end of every container")
        self.docker("network", "prune", "--force")

    def answers(self) -> bool:
        """Tell whether it says that it is well, within a second."""
        connection = _UnixConnection(self.socket)
        try:
            connection.request("GET", "/_ping")
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()

    def _is_empty(self) -> bool:
        """Remove every container that is there; tell whether there was none."""
        containers = self.docker("ps", "--all", "--quiet", "--no-trunc").split()
        if containers:
            with contextlib.suppress(RuntimeError):  # of one that somebody else is removing just now
                self.docker("rm", "--force", "--volumes", *containers)
        return not containers

    def _flags(self) -> list[str]:
        flags = {
            "host": self.url,
            "data-root": self.data,
            "exec-root": self._exec,
            "pidfile": self._pid_file,
            "bridge": "none",
            "default-address-pool": f"base={self._pool},size=24",
            "exec-opt": "native.cgroupdriver=cgroupfs",
            "cgroup-parent": f"/{self.cgroup}",
            "live-restore": str(self._live_restore).lower(),
        }
        return [f"--{name}={value}" for name, value in flags.items()] + list(self._options)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None or self.pid is None:
            return
        self._process.send_signal(number)
        self._process.wait(_STOP_SECONDS)
        self._pid_file.unlink(missing_ok=True)
        containerd = self._exec / "containerd" / "containerd.pid"
        if containerd.exists():
            remains.wait_for(int(containerd.read_text()), _STOP_SECONDS)
            containerd.unlink(missing_ok=True)

    def _until(self, is_reached: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not is_reached():
            said = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            if self.pid is None:
                raise RuntimeError(f"dockerd ended before {what}:\n{said}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {seconds:.0f} s: {what}\n{said}")
            time.sleep(_POLL_SECONDS)


def close_abandoned() -> None:
    """Close every daemon whose owner died before it could."""
    for path in _TOP.glob(f"{_PREFIX}*/{_OWNER}"):
        try:
            with path.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remains.kill(path.parent, _cgroup(path.parent))
                for pid_file in (*path.parent.glob("*.pid"), *path.parent.glob("exec/containerd/*.pid")):
                    pid_file.unlink()
                path.unlink()
        except (BlockingIOError, FileNotFoundError):  # somebody's, or just closed by another one
            continue
        Daemon(path.parent).close()


def _owned(folder: Path) -> IO[str]:
    """Tell others that a folder's daemon has an owner, for as long as the returned file is open."""
    fresh = folder / f"{_OWNER}.new"
    file = fresh.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    fresh.rename(folder / _OWNER)  # never seen without its lock
    return file


def _is_stopped(pid: int) -> bool:
    """Tell whether no thread of a process runs any more, which SIGSTOP has stopped."""
    try:
        threads = psutil.Process(pid).threads()
        return all(psutil.Process(thread.id).status() == psutil.STATUS_STOPPED for thread in threads)
    except psutil.NoSuchProcess:  # a thread that ended meanwhile
        return False


def _cgroup(folder: Path) -> str:
    return f"muster-{folder.name}"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=1.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _claim_pool() -> tuple[ipaddress.IPv4Network, socket.socket]:
    """Return a /16 that no daemon of these tests and no route of this host has, and the socket that claims it."""
    taken = _routed()
    pools = list(NETWORKS.subnets(new_prefix=16))[1:]
    begin = os.getpid() % len(pools)
    for pool in itertools.chain(pools[begin:], pools[:begin]):
        if any(pool.overlaps(network) for network in taken):
            continue
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0muster-test-pool-{pool}")
        except OSError:
            claim.close()
        else:
            return pool, claim
    raise RuntimeError(f"no free /16 in {NETWORKS} for a test's containers")


def _routed() -> list[ipaddress.IPv4Network]:
    """Return the networks that this host has a route to, the default route aside."""
    lines = Path("/proc/net/route").read_text().splitlines()[1:]
    pairs = [(line.split()[1], line.split()[7]) for line in lines]
    networks = [ipaddress.IPv4Network((_address(base), str(_address(mask)))) for base, mask in pairs]
    return [network for network in networks if network.prefixlen > 0]


def _address(digits: str) -> ipaddress.IPv4Address:
    """Read an address as the kernel prints it: eight hexadecimal digits in the order of this machine."""
    return ipaddress.IPv4Address(bytes.fromhex(digits)[::-1])
