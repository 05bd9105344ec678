"""The SSH gateway: one listener for each container that has a login, behind it the container's engine.

In: route tables, complete each time. Out: listeners, and what could not be listened on. It asks the server nothing, so
logins and sessions go on without one. A listener belongs to a port; whose it is, is said by the ``Door`` behind it,
which is looked up for each connection. Sessions of a container that has left the table come to their own end with it.

asyncssh does the protocol. It is given one set of options for all listeners, and told to keep its own log to itself:
that would show commands.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import asyncssh

from muster.clock import Clock
from muster.model.routes import Route, RouteState, RouteTable
from muster.ssh.connection import Connection
from muster.ssh.door import ContainerAccess, Door, Premises
from muster.ssh.hostkey import ensure_host_key

VERSION = "Muster"
LOGIN_SECONDS = 30.0
"""From the first byte to the login: three wrong passwords, answered late, fit in."""
_KEEPALIVE_SECONDS = 30.0
_KEEPALIVE_MISSES = 10
"""A client that has not answered for five minutes is gone; a laptop that was closed for a moment is not."""
_BACKLOG = 128
_CLOSE_SECONDS = 10.0
_log = logging.getLogger(__name__)


class _Post:
    """A port: whose door it leads to, and its listener if it could be opened.

    A connection that was made a moment before the listener closed still finds a door, of a container that has ended.
    """

    def __init__(self, door: Door) -> None:
        self.door = door
        self.listener: asyncssh.SSHAcceptor | None = None

    def answer(self) -> Connection:
        """Begin a connection."""
        return Connection(self.door)

    def close(self) -> None:
        """Listen no more."""
        if self.listener is not None:
            self.listener.close()


class SshGateway:
    """Logs people in to containers. Belongs to one event loop; close it with ``aclose``."""

    def __init__(self, engine: ContainerAccess, *, home: Path, host: str, clock: Clock) -> None:
        """Listen on ``host`` once there are routes; the host key is in ``home``. Raises ``SetupError``."""
        self._premises = Premises(engine, clock)
        self._host = host
        self._key = asyncssh.import_private_key(ensure_host_key(home))
        self._options: asyncssh.SSHServerConnectionOptions | None = None
        self._posts: dict[int, _Post] = {}
        self._applying = asyncio.Lock()
        logging.getLogger("asyncssh").setLevel(logging.ERROR)

    @property
    def sessions(self) -> int:
        """How many shells, commands and file transfers are open."""
        return self._premises.sessions

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._premises.guests)

    @property
    def failed_logins(self) -> int:
        """How many wrong passwords there were."""
        return self._premises.failed.total

    async def apply(self, table: RouteTable) -> Mapping[int, str]:
        """Put a table in force; returns why ports of it cannot be listened on. Those are tried again each time."""
        async with self._applying:
            wanted = {route.ssh.listen_port: route for route in table.routes if route.ssh is not None}
            for port in self._posts.keys() - wanted.keys():
                post = self._posts.pop(port)
                post.close()
                _end(post.door)
            failures = {}
            for port, route in wanted.items():
                post = self._post(port, route)
                try:
                    post.listener = post.listener or await self._listen(port, post)
                except OSError as error:
                    failures[port] = error.strerror or str(error)
            return failures

    async def aclose(self) -> None:
        """End everything: listeners, connections, and with them the sessions."""
        for post in self._posts.values():
            post.close()
        self._posts.clear()
        for guest in list(self._premises.guests):
            guest.show_out("the gateway stops")
        await asyncio.sleep(0)  # connections tell their sessions that they are gone
        if self._premises.tasks:
            _, late = await asyncio.wait(list(self._premises.tasks), timeout=_CLOSE_SECONDS)
            for task in late:
                _log.warning("%s did not end in time", task.get_name())
                task.cancel()

    def _post(self, port: int, route: Route) -> _Post:
        """Return a port's post, which leads to this route from now on."""
        post = self._posts.get(port)
        if post is None:
            post = self._posts[port] = _Post(Door(self._premises, route))
        elif post.door.route.container_uuid == route.container_uuid:
            post.door.change(route)
        else:
            _end(post.door)
            post.door = Door(self._premises, route)
        return post

    async def _listen(self, port: int, post: _Post) -> asyncssh.SSHAcceptor:
        if self._options is None:
            self._options = await asyncssh.SSHServerConnectionOptions.construct(
                server_host_keys=[self._key],
                server_version=VERSION,
                login_timeout=LOGIN_SECONDS,
                keepalive_interval=_KEEPALIVE_SECONDS,
                keepalive_count_max=_KEEPALIVE_MISSES,
                compression_algs=None,
                kbdint_auth=False,
                host_based_auth=False,
                gss_host=None,
                gss_kex=False,
                gss_auth=False,
                agent_forwarding=False,
                x11_forwarding=False,
                line_editor=False,
                encoding=None,
            )
        return await asyncssh.listen(
            self._host, port, options=self._options, backlog=_BACKLOG, server_factory=post.answer
        )


def _end(door: Door) -> None:
    """Let a container's door know that the container has left the table."""
    if door.route.state is not RouteState.ENDED:
        door.change(replace(door.route, state=RouteState.ENDED, is_running=False))
