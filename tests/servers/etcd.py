"""An etcd of a test's own: Debian's ``etcd``, on loopback, with a folder of its own.

It fails as etcd does: ``kill`` (-9) and ``restart`` with its data or without, ``pause`` (SIGSTOP: it holds its
connections and says nothing) and ``resume``. With ``tls`` it serves under a certificate of a throwaway authority;
``require_password`` turns its authentication on. ``ctl`` runs ``etcdctl``, which is also what other programs would do.

Its ports lie below those that the system gives to outgoing connections, so that none can take a port while a killed
etcd is away. It does not wait for the disk: what is tested is not whether etcd survives a power cut.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers import require
from tests.servers.throwaway_tls import Tls

ROOT_PASSWORD = "root-secret"
_PORTS = range(20000, 32000)
_START_SECONDS = 20.0
_POLL_SECONDS = 0.02
_TRIES = 5


class EtcdServer:
    """One etcd; a context manager that starts it, and ends it by its process id."""

    def __init__(self, folder: Path, *, tls: Tls | None = None, asks_for_certificate: bool = False) -> None:
        self._folder = folder
        self._tls = tls
        self._asks_for_certificate = asks_for_certificate
        self._log = folder / "etcd.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._is_password_required = False
        self.port = 0
        self._peer_port = 0

    @property
    def host(self) -> str:
        """``HOST:PORT``, for URLs with more in them than ``url`` says."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The registry's URL."""
        return f"etcd://{self.host}" if self._tls is None else f"etcds://{self.host}?ca={self._tls.ca}"

    def __enter__(self) -> Self:
        require("etcd", "etcdctl")
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in reversed(range(_TRIES)):
            self.port, self._peer_port = free_port(), free_port()
            try:
                self._start()
            except RuntimeError:
                if not left:  # else another test may have taken the port
                    raise
            else:
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Ask it to end."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(_START_SECONDS)
        self._process = None

    def restart(self, *, is_empty: bool = False) -> None:
        """Start it again at the same address, after ``kill`` or ``stop`` or on the spot."""
        self.kill()
        if is_empty:
            shutil.rmtree(self._folder / "data")
        self._start()

    def pause(self) -> None:
        """Let it hang, all its threads: they do not stop at the moment of the signal."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ctl(self, *arguments: str) -> str:
        """Run etcdctl, as root where a password is required; return what it prints."""
        command = ["etcdctl", f"--endpoints={self.host}"]
        if self._tls is not None:
            command += [f"--cacert={self._tls.ca}", f"--cert={self._tls.certificate}", f"--key={self._tls.key}"]
        if self._is_password_required:
            command.append(f"--user=root:{ROOT_PASSWORD}")
        done = subprocess.run(
            [*command, *arguments],
            env=os.environ | {"ETCDCTL_API": "3"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"etcdctl {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def revision(self) -> int:
        """Return the revision it is at."""
        return int(self.ctl("endpoint", "status", "--write-out=json").partition('"revision":')[2].split(",")[0])

    def require_password(self, user: str, password: str, prefix: str = "/muster/") -> None:
        """Let nobody in but root and ``user``, who may read and write under ``prefix``."""
        self.ctl("user", "add", f"root:{ROOT_PASSWORD}")
        self.ctl("user", "grant-role", "root", "root")
        self.ctl("role", "add", "muster")
        self.ctl("role", "grant-permission", "muster", "--prefix=true", "readwrite", prefix)
        self.ctl("user", "add", f"{user}:{password}")
        self.ctl("user", "grant-role", user, "muster")
        self.ctl("auth", "enable")
        self._is_password_required = True

    def _start(self) -> None:
        scheme = "http" if self._tls is None else "https"
        client = f"{scheme}://{self.host}"
        peer = f"http://127.0.0.1:{self._peer_port}"
        command = [
            "etcd",
            "--name=test",
            f"--data-dir={self._folder / 'data'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=test={peer}",
            "--heartbeat-interval=10",
            "--election-timeout=100",  # so that it is its own leader soon after a restart
            "--unsafe-no-fsync",
        ]
        if self._tls is not None:
            command += [f"--cert-file={self._tls.certificate}", f"--key-file={self._tls.key}"]
            if self._asks_for_certificate:
                command += [f"--trusted-ca-file={self._tls.ca}", "--client-cert-auth"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while "ready to serve client requests" not in self._log.read_text(errors="replace"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"etcd does not start:\n{self._log.read_text(errors='replace')}")
            time.sleep(_POLL_SECONDS)


def free_port() -> int:
    while True:
        with socket.socket() as probe:
            port = random.choice(_PORTS)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
