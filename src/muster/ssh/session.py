"""A session of a login: a shell, a command, or SFTP, each one an exec session of the engine.

asyncssh asks what is wanted (``*_requested``), and then the session's task does it: open, relay, exit. Its end is the
command's exit code. What goes wrong before or besides is one line on standard error and exit code 255, as OpenSSH's own
failures are. A client that goes away, or that sends a signal to a command without a terminal, hangs up on it.
"""

import asyncio
import logging
from collections.abc import Mapping

import asyncssh

from muster.engine.port import ExecSession
from muster.errors import EngineError
from muster.model.exec_wire import LARGEST_SIZE
from muster.model.run import ExecOrder
from muster.ssh import command as words
from muster.ssh.door import Door
from muster.ssh.relay import OnEnd, Relay

FAILED = 255
"""Nothing of what was asked for came to its end."""
_KEYS = {"INT": b"\x03", "QUIT": b"\x1c", "TSTP": b"\x1a"}
"""What a person would type to send a signal."""
_ENDING = frozenset({"HUP", "INT", "QUIT", "TERM", "KILL"})
_log = logging.getLogger(__name__)


class LoginSession(Relay, asyncssh.SSHServerSession[bytes]):
    """See the module's text."""

    def __init__(self, door: Door, peer: tuple[str, int, int], on_end: OnEnd) -> None:
        super().__init__(on_end)
        self._door = door
        self._peer = peer
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._command: str | None = None
        self._is_sftp = False
        self._terminal: str | None = None
        self._size = (0, 0)
        self._has_size = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # What asyncssh calls.

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Keep the channel."""
        self._channel = chan

    def pty_requested(
        self,
        term_type: str,
        term_size: tuple[int, int, int, int],
        term_modes: Mapping[int, int],  # noqa: ARG002  the engine's terminals have modes of their own
    ) -> bool:
        """Remember the terminal."""
        self._terminal, self._size = term_type, term_size[:2]
        return True

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:  # noqa: ARG002
        """Remember the newest size; those in between are skipped."""
        self._size = (width, height)
        self._has_size.set()

    def shell_requested(self) -> bool:
        """Accept it; what stands against it is told on its standard error."""
        return True

    def exec_requested(self, command: str) -> bool:
        """Accept a command."""
        self._command = command
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        """Accept SFTP, and nothing else."""
        self._is_sftp = subsystem == "sftp"
        return self._is_sftp

    def session_started(self) -> None:
        """Begin."""
        name = f"ssh session in {self._door.route.container_uuid}"
        self._task = self._door.premises.begin(self._run(), name)

    def signal_received(self, signal: str) -> None:
        """Type the key of a signal at a terminal; hang up where there is none."""
        if self._terminal is not None and signal in _KEYS:
            self.data_received(_KEYS[signal], None)
        elif signal in _ENDING and self._task is not None:
            self._task.cancel()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Hang up."""
        if self._task is not None:
            self._task.cancel()
        self.ended()

    # What happens then.

    async def _run(self) -> None:
        assert self._channel is not None
        code = FAILED
        self._door.premises.sessions += 1
        try:
            code = await self._exchange(await self._open())
        except* EngineError as errors:
            self._tell_failure(str(errors.exceptions[0]))
        except* BrokenPipeError:
            _log.debug("a client went away while it was written to")
        finally:
            self._door.premises.sessions -= 1
            self._channel.exit(code)

    async def _open(self) -> ExecSession:
        engine, able = self._door.premises.engine, self._door.premises.engine.capabilities
        if self._door.why_closed:
            raise EngineError(self._door.why_closed)
        if self._is_sftp:
            if not able.has_sftp:
                raise EngineError("this engine does not serve files; copy through the storage: muster fs cp")
            return await engine.sftp(self._door.ref)
        if not able.has_exec:
            raise EngineError("this engine cannot run commands beside a container's own")
        assert self._channel is not None
        variables = words.environment(self._channel.get_environment(), terminal=self._terminal, peer=self._peer)
        command = words.shell(variables) if self._command is None else words.one_shot(self._command, variables)
        size = _size(self._size)
        return await engine.execute(self._door.ref, ExecOrder(command, has_tty=self._terminal is not None, size=size))

    async def _exchange(self, session: ExecSession) -> int:
        try:
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(work) for work in (self.feed(session), self._fit(session))]
                await self.tell(session)
                code = await session.exit_code()
                for task in beside:
                    task.cancel()
            return code
        finally:
            await session.aclose()

    async def _fit(self, session: ExecSession) -> None:
        """Keep the terminal at the newest size."""
        while True:
            await self._has_size.wait()
            self._has_size.clear()
            size = _size(self._size)
            try:
                if size is not None:
                    await session.resize(*size)
            except EngineError as error:
                _log.warning("a terminal keeps its old size: %s", error)

    def _tell_failure(self, text: str) -> None:
        assert self._channel is not None
        line = " ".join(text.split())
        end = "\r\n" if self._terminal is not None else "\n"
        try:
            self._channel.write_stderr(f"muster: {line}{end}".encode())
        except BrokenPipeError:
            _log.debug("nobody is there to be told: %s", line)


def _size(size: tuple[int, int]) -> tuple[int, int] | None:
    """Return a size that a terminal can have; clients without one send zeros."""
    columns, rows = size
    return (min(columns, LARGEST_SIZE), min(rows, LARGEST_SIZE)) if columns > 0 and rows > 0 else None
