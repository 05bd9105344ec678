"""A Redis of a test's own: Debian's ``redis-server``, on loopback, with a folder of its own.

It fails as Redis does: ``kill`` (-9) and ``restart`` with its data or without, ``pause`` (SIGSTOP: it holds its
connections and says nothing) and ``resume``. With ``tls`` it serves under a certificate of a throwaway authority, with
``password`` nobody else. ``cli`` runs ``redis-cli``, which is also what other programs would do.

Every write is in its log before it is answered (appendonly), though not on the disk: what is tested is not whether
Redis survives a power cut.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers import require
from tests.servers.etcd import free_port
from tests.servers.throwaway_tls import Tls

_START_SECONDS = 20.0
_POLL_SECONDS = 0.02
_TRIES = 5


class RedisServer:
    """One Redis; a context manager that starts it, and ends it by its process id."""

    def __init__(self, folder: Path, *, tls: Tls | None = None, password: str = "", user: str = "") -> None:
        self._folder = folder
        self._tls = tls
        self._password = password
        self._user = user
        self._log = folder / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def host(self) -> str:
        """``HOST:PORT``, for URLs with more in them than ``url`` says."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The registry's URL."""
        who = f"{self._user}:{self._password}@" if self._password else ""
        return f"redis://{who}{self.host}" if self._tls is None else f"rediss://{who}{self.host}?ca={self._tls.ca}"

    def __enter__(self) -> Self:
        require("redis-server", "redis-cli")
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in reversed(range(_TRIES)):
            self.port = free_port()
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

    def restart(self, *, is_empty: bool = False) -> None:
        """Start it again at the same address, after ``kill`` or on the spot."""
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

    def cli(self, *arguments: str) -> str:
        """Run redis-cli; return what it prints."""
        command = ["redis-cli", "-h", "127.0.0.1", "-p", str(self.port)]
        if self._tls is not None:
            command += ["--tls", "--cacert", str(self._tls.ca)]
        environment = os.environ | ({"REDISCLI_AUTH": self._password} if self._password else {})
        done = subprocess.run(
            [*command, *(["--user", self._user] if self._user else []), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=_START_SECONDS,
            check=True,
        )
        return done.stdout

    def _start(self) -> None:
        (self._folder / "data").mkdir(exist_ok=True)
        plain, secure = (self.port, 0) if self._tls is None else (0, self.port)
        command = ["redis-server", "--port", str(plain), "--bind", "127.0.0.1", "--dir", str(self._folder / "data")]
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "no", "--daemonize", "no"]
        if self._tls is not None:
            command += ["--tls-port", str(secure), "--tls-auth-clients", "no", "--tls-ca-cert-file", str(self._tls.ca)]
            command += ["--tls-cert-file", str(self._tls.certificate), "--tls-key-file", str(self._tls.key)]
        if self._user:
            users = self._folder / "users.acl"
            users.write_text(f"user {self._user} on >{self._password} ~muster:* &muster:* +@all\nuser default off\n")
            command += ["--aclfile", str(users)]
        elif self._password:
            command += ["--requirepass", self._password]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while "Ready to accept connections" not in self._log.read_text(errors="replace"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"redis-server does not start:\n{self._log.read_text(errors='replace')}")
            time.sleep(_POLL_SECONDS)
