"""One connection to a container's door: who may log in, and what may be opened then.

The door says which container is meant, so the only user is root. A password is compared with the route's hash, a key
with the account's; a wrong password is answered late (``throttle``), and the third ends the connection. A container
that does not run lets nobody in and says why before any password is asked for. Nobody forwards ports *to* a client, an
agent or a display: the gateway would listen on the host for whoever is in the container.
"""

import base64
import logging
from collections.abc import Awaitable

import asyncssh

from muster.model.password import is_password
from muster.ssh.door import MAX_CONNECTIONS, Door
from muster.ssh.forward import Forward, dial
from muster.ssh.session import LoginSession

USER = "root"
MAX_PASSWORDS = 3
MAX_KEYS = 30
"""An agent full of keys offers one after the other."""
MAX_CHANNELS = 200
"""Of one connection at once: a browser through ``-D`` opens many."""
_log = logging.getLogger(__name__)


class Connection(asyncssh.SSHServer):
    """See the module's text."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._client: asyncssh.SSHServerConnection | None = None
        self._peer = ("", 0, 0)
        self._method = ""
        self._wrong_passwords = 0
        self._keys = 0
        self._answer_at = 0.0
        self._is_counted = False
        self._is_in = False
        self._channels = 0

    # The door's view.

    @property
    def is_idle(self) -> bool:
        """Whether nothing is open in it, and it has logged in."""
        return self._is_in and self._channels == 0

    def show_out(self, why: str) -> None:
        """End it."""
        if self._client is not None:
            self._client.disconnect(asyncssh.DISC_BY_APPLICATION, why)

    # From the first byte to the login.

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Let it knock, unless too many from there do."""
        self._client = conn
        address, port = conn.get_extra_info("peername")[:2]
        self._peer = (address, port, conn.get_extra_info("sockname")[1])
        self._is_counted = self._door.arrive(address)
        if not self._is_counted:
            _log.warning("ssh: too many connections from %s to %s are not logged in", address, self._uuid)
            conn.abort()
            return
        self._door.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._door.leave(self)
        self._no_stranger()
        if exc is not None:
            _log.debug("ssh: lost %s at %s: %s", self._peer[0], self._uuid, exc)

    def begin_auth(self, username: str) -> bool:
        """Ask for a proof, unless nothing could come of it. Raises ``DisconnectError``."""
        why = self._door.why_closed
        if username != USER:
            why = f"the only user of a container is {USER}: ssh -p {self._peer[2]} {USER}@HOST"
        elif not why and len(self._door.guests) > MAX_CONNECTIONS:
            why = f"container {self._uuid} has {MAX_CONNECTIONS} connections already"
        if why:
            assert self._client is not None
            self._client.send_auth_banner(f"muster: {why}\r\n")
            raise asyncssh.DisconnectError(asyncssh.DISC_BY_APPLICATION, why)
        return True

    def password_auth_supported(self) -> bool:
        """Passwords do."""
        return True

    async def validate_password(self, username: str, password: str) -> bool:  # noqa: ARG002  it is root
        """Compare; answer a wrong one late. Raises ``DisconnectError`` after too many.

        A client that does not wait for the answer waits before the next one is even looked at.
        """
        premises, address = self._door.premises, self._peer[0]
        await self._wait()
        self._check_tries(self._wrong_passwords < MAX_PASSWORDS)
        ssh = self._door.route.ssh
        if ssh is not None and is_password(password, ssh.password_hash):
            premises.failed.forget(self._uuid, address)
            self._method = "password"
            return True
        now = premises.clock.monotonic()
        self._wrong_passwords += 1
        self._answer_at = now + premises.failed.note(self._uuid, address, now)
        _log.warning("ssh: wrong password for %s from %s", self._uuid, address)
        await self._wait()
        self._check_tries(self._wrong_passwords < MAX_PASSWORDS)
        return False

    def public_key_auth_supported(self) -> bool:
        """Keys do, if the account has any."""
        return self._door.route.ssh is not None and bool(self._door.route.ssh.keys)

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002  it is root
        """Compare with the account's. asyncssh asks before it checks the signature, and once more then."""
        self._keys += 1
        self._check_tries(self._keys <= MAX_KEYS)
        ssh = self._door.route.ssh
        if ssh is None or key.public_data not in {_blob(line) for line in ssh.keys}:
            return False
        self._method = f"key {key.get_fingerprint()}"
        return True

    def auth_completed(self) -> None:
        """Let it in."""
        self._no_stranger()
        self._is_in = True
        _log.info("ssh: %s logged in to %s from %s by %s", USER, self._uuid, self._peer[0], self._method)

    # What may be opened.

    def session_requested(self) -> LoginSession:
        """Open a shell, a command or SFTP. Raises ``ChannelOpenError``."""
        self._open()
        return LoginSession(self._door, self._peer, self._closed)

    def connection_requested(
        self,
        dest_host: str,
        dest_port: int,
        orig_host: str,  # noqa: ARG002
        orig_port: int,  # noqa: ARG002
    ) -> Awaitable[Forward]:
        """Open a connection to a port of the container. Raises ``ChannelOpenError``."""
        assert self._client is not None
        self._open()
        return dial(self._door, self._client, dest_host, dest_port, self._closed)

    def _open(self) -> None:
        if self._channels >= MAX_CHANNELS:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_RESOURCE_SHORTAGE, f"{MAX_CHANNELS} channels are open in this connection already"
            )
        self._channels += 1

    def _closed(self) -> None:
        self._channels -= 1
        self._door.settle(self)

    @property
    def _uuid(self) -> str:
        return self._door.route.container_uuid

    async def _wait(self) -> None:
        clock = self._door.premises.clock
        if (left := self._answer_at - clock.monotonic()) > 0:
            await clock.sleep(left)

    def _check_tries(self, is_good: bool) -> None:
        if not is_good:
            raise asyncssh.DisconnectError(
                asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many authentication failures"
            )

    def _no_stranger(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._door.known(self._peer[0])


def _blob(line: str) -> bytes:
    """Return what an authorized key's line holds as base64; nothing for one that is malformed."""
    try:
        return base64.b64decode(line.split()[1], validate=True)
    except (IndexError, ValueError):
        return b""
