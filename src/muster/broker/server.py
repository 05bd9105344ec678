"""Listens for clients, learns who they are, and leads each to the desk of its service.

In: connections, over TLS, over TCP on one host, or over a Unix socket. A client says hello within five seconds, its
token says of which account it is, and it sees that account's services: another account's look unknown. Out: messages
between connections and desks (``connection.py``, ``served.py``).

Bounded: connections, those that nobody knows yet among them, and the time of everything. Who is silent for three
heartbeats is gone, since a host that lost its power says no goodbye; its leases end with it. Tokens are looked at again
from time to time, so one that was revoked does not outlive its connection.

One sweep looks at all connections: a timer of its own for each would be set anew with every message.
"""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import stat
from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from muster.broker.address import Address
from muster.broker.connection import Connection, Stage
from muster.broker.messages import HEARTBEAT_SECONDS, SILENT_BEATS, Bye, Hello
from muster.broker.served import Served
from muster.broker.services import Services
from muster.broker.tokens import Authenticate
from muster.errors import MusterError, RegistryError, SetupError

MOST_CONNECTIONS = 4096
MOST_STRANGERS = 256
HELLO_SECONDS = 5.0
ADMISSION_SECONDS = 5.0
HANDSHAKE_SECONDS = 5.0
SWEEP_SECONDS = 0.5
RECHECK_SECONDS = 10.0
STOP_SECONDS = 2.0
_BACKLOG = 1024

STOPPING = Bye("stopping", "the broker is being stopped: choose for yourself, and come back when it is there again")
_UNAUTHENTICATED = Bye(
    "unauthenticated", "the token is unknown, has expired or was revoked: make another with `muster tokens create`"
)

_log = logging.getLogger(__name__)


class Broker:
    """Give ``run`` a task, and ``listen``."""

    def __init__(
        self,
        services: Services,
        authenticate: Authenticate,
        *,
        most_connections: int = MOST_CONNECTIONS,
        most_strangers: int = MOST_STRANGERS,
        recheck_seconds: float = RECHECK_SECONDS,
    ) -> None:
        self._services = services
        self._authenticate = authenticate
        self._most_connections = most_connections
        self._most_strangers = most_strangers
        self._recheck_seconds = recheck_seconds
        self._connections: set[Connection] = set()
        self._strangers = 0
        self._admissions: set[asyncio.Task[None]] = set()
        self._listeners: list[asyncio.Server] = []
        self._paths: list[Path] = []
        self._is_stopping = False
        self._is_quiet = asyncio.Event()

    @property
    def connections(self) -> Collection[Connection]:
        """All that are open."""
        return self._connections

    async def listen(self, address: Address, tls: ssl.SSLContext | None = None) -> Address:
        """Listen there; return the address with its real port. Raises ``SetupError``."""
        loop = asyncio.get_running_loop()
        is_secure = address.scheme == "tls"
        if is_secure and tls is None:
            raise SetupError(f"{address.url}: needs a certificate")
        try:
            if address.scheme == "unix":
                _clear(Path(address.path))
                listener = await loop.create_unix_server(self._accept, address.path, backlog=_BACKLOG)
                self._paths.append(Path(address.path))
                self._paths[-1].chmod(stat.S_IRUSR | stat.S_IWUSR)
            else:
                listener = await loop.create_server(
                    self._accept,
                    address.host,
                    address.port,
                    backlog=_BACKLOG,
                    ssl=tls if is_secure else None,
                    ssl_handshake_timeout=HANDSHAKE_SECONDS if is_secure else None,
                    ssl_shutdown_timeout=STOP_SECONDS if is_secure else None,
                )
        except OSError as error:
            raise SetupError(f"cannot listen at {address.url} ({os.strerror(error.errno or 0)})") from error
        self._listeners.append(listener)
        return address if address.scheme == "unix" else address._replace(port=listener.sockets[0].getsockname()[1])

    async def run(self) -> None:
        """Serve until cancelled; then say goodbye to everybody."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._services.run(), name="broker services")
                group.create_task(self._sweep(), name="broker sweep")
                group.create_task(self._recheck(), name="broker tokens")
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Listen no more, and take leave."""
        self._is_stopping = True
        for listener in self._listeners:
            listener.close()
        for path in self._paths:
            path.unlink(missing_ok=True)
        for admission in list(self._admissions):
            admission.cancel()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._services.retire(STOPPING)
        except (RegistryError, TimeoutError):
            _log.warning("stopped, and the registry could not be told: our silence tells other brokers")
        for connection in list(self._connections):
            connection.dismiss(STOPPING)
        self._is_quiet.clear()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._is_quiet.wait()
        for connection in list(self._connections):
            connection.abort()

    # ── what connections say (``connection.Host``) ───────────────────────────────────────────────────────────────

    def arrived(self, connection: Connection) -> Bye | None:
        """Note a new connection, or say why it cannot stay."""
        self._connections.add(connection)
        self._strangers += 1
        if self._is_stopping:
            return STOPPING
        if len(self._connections) > self._most_connections:
            return Bye("too_many", f"this broker has its {self._most_connections} connections: run another one")
        if self._strangers > self._most_strangers:
            return Bye("too_many", f"{self._most_strangers} connections have not said hello yet: come again")
        return None

    def greeted(self, connection: Connection, hello: Hello) -> None:
        """See who it is."""
        admission = asyncio.create_task(self._admit(connection, hello), name="broker admission")
        self._admissions.add(admission)
        admission.add_done_callback(self._admissions.discard)

    def gone(self, connection: Connection) -> None:
        """Forget it."""
        if connection in self._connections:
            self._connections.discard(connection)
            self._strangers -= not connection.was_seated
            if not self._connections:
                self._is_quiet.set()

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _accept(self) -> Connection:
        return Connection(self, asyncio.get_running_loop())

    async def _admit(self, connection: Connection, hello: Hello) -> None:
        try:
            async with asyncio.timeout(ADMISSION_SECONDS):
                found = await self._find(connection, hello)
        except TimeoutError:
            found = Bye("unavailable", "nobody can tell in time who you are: choose for yourself, and come again")
        except MusterError as error:
            _log.warning("%r cannot be let in: %s", connection, error)
            found = Bye("unavailable", "nobody can tell now who you are: choose for yourself, and come again")
        except Exception:  # noqa: BLE001 - whatever it is, it is this client's alone
            _log.exception("%r cannot be let in", connection)
            found = Bye("failed", "the broker has failed over this hello; its log says how")
        if isinstance(found, Bye):
            connection.dismiss(found)
            return
        if connection.stage is Stage.CHECKED:
            self._strangers -= 1
        connection.seat(found)

    async def _find(self, connection: Connection, hello: Hello) -> Served | Bye:
        account = await self._authenticate(hello.token)
        if account is None:
            return _UNAUTHENTICATED
        if not hello.key.account:  # who reads its sets through the API knows a token, and no name
            connection.hello = hello = replace(hello, key=replace(hello.key, account=account))
        if account != hello.key.account:
            return self._services.unknown(hello.key)
        return await self._services.open(hello.key, connection)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        silent_seconds = SILENT_BEATS * HEARTBEAT_SECONDS
        due = loop.time() + SWEEP_SECONDS
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            now, was_due = loop.time(), due
            due = now + SWEEP_SECONDS
            if now - was_due > SWEEP_SECONDS:
                continue  # it was we who slept: what they said meanwhile has not been read yet
            for connection in list(self._connections):
                if connection.stage is Stage.SEATED and now - connection.heard_at > silent_seconds:
                    _log.info("%r has said nothing for %g s and is taken for gone", connection, silent_seconds)
                    connection.dismiss(Bye("silent", f"nothing was heard for {silent_seconds:g} s"))
                elif connection.stage is Stage.GREETING and now - connection.arrived_at > HELLO_SECONDS:
                    connection.dismiss(Bye("silent", f"no hello within {HELLO_SECONDS:g} s"))

    async def _recheck(self) -> None:
        """Send those away whose token has lost its meaning."""
        while True:
            await asyncio.sleep(self._recheck_seconds)
            by_token: dict[str, list[Connection]] = defaultdict(list)
            for connection in self._connections:
                if connection.stage is Stage.SEATED and connection.hello is not None:
                    by_token[connection.hello.token].append(connection)
            for token, connections in by_token.items():
                try:
                    async with asyncio.timeout(ADMISSION_SECONDS):
                        account = await self._authenticate(token)
                except (MusterError, TimeoutError):
                    continue  # nobody knows: they stay
                except Exception:  # noqa: BLE001 - whatever it is, it says nothing of this token, nor of others
                    _log.exception("a token cannot be looked at again, and its connections stay")
                    continue
                for connection in connections:
                    if connection.hello is None or account != connection.hello.key.account:
                        connection.dismiss(_UNAUTHENTICATED)


def _clear(path: Path) -> None:
    """Remove a socket that a broker left which was killed. Raises ``SetupError`` where another one listens.

    The event loop would take the path away from whoever has it.
    """
    if not path.is_socket():
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise SetupError(f"{path}: another process listens there")
