"""A forwarded connection (``-L``, ``-D``, ``-W``): from the client through the engine to what listens in the container.

Only the container's own loopback is dialled. What else it reaches is not what a login to it is for, and a client that
wants to go on from there has a shell. The connection is made before the channel is opened, so that a port on which
nobody listens is told as such, as sshd tells it.
"""

import asyncio
import ipaddress
import logging

import asyncssh

from muster.engine.port import ExecSession
from muster.errors import EngineError
from muster.ssh.door import Door
from muster.ssh.relay import OnEnd, Relay

_NAME = "localhost"
_log = logging.getLogger(__name__)


def is_own(host: str) -> bool:
    """Tell whether a host is the container itself, as it knows itself."""
    if host == _NAME:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def dial(door: Door, client: asyncssh.SSHServerConnection, host: str, port: int, on_end: OnEnd) -> "Forward":
    """Connect for a client; ``on_end`` is called once. Raises ``ChannelOpenError``, which the client shows."""
    try:
        session = await _open(door, host, port)
        if client.is_closed():  # while it was dialled: nobody would ever close it
            await session.aclose()
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the client went away")
    except BaseException:
        on_end()
        raise
    return Forward(door, session, on_end)


async def _open(door: Door, host: str, port: int) -> ExecSession:
    engine = door.premises.engine
    if door.why_closed:
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, door.why_closed)
    if not engine.capabilities.can_dial:
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "this engine cannot forward ports")
    if not is_own(host):
        why = f"only ports of the container itself are forwarded, at 127.0.0.1, not at {host}"
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, why)
    try:
        return await engine.dial(door.ref, host, port)
    except EngineError as error:
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, " ".join(str(error).split())) from error


class Forward(Relay, asyncssh.SSHTCPSession[bytes]):
    """One forwarded connection, which is over when both sides have ended it, or one is gone."""

    def __init__(self, door: Door, session: ExecSession, on_end: OnEnd) -> None:
        super().__init__(on_end)
        self._door = door
        self._session = session
        self._channel: asyncssh.SSHTCPChannel[bytes] | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        """Keep the channel."""
        self._channel = chan

    def session_started(self) -> None:
        """Begin."""
        name = f"ssh forwarding to {self._door.route.container_uuid}"
        self._task = self._door.premises.begin(self._run(), name)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Hang up."""
        if self._task is not None:
            self._task.cancel()
        self.ended()

    async def _run(self) -> None:
        assert self._channel is not None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.feed(self._session))
                await self.tell(self._session)
                self._channel.write_eof()
        except* EngineError as errors:
            _log.info("a forwarded connection broke: %s", errors.exceptions[0])
        except* BrokenPipeError:
            _log.debug("a client closed a forwarded connection while it was written to")
        finally:
            await self._session.aclose()
            self._channel.close()
