"""Commands beside a local container's own: handed to its shim, which runs them as its children (``shim`` says how).

In: an order. Out: a session over pipes, or over the upper end of a terminal. The lower ends go to the shim, so the
command is never a child of this process: it ends with the container, whoever asked for it lives or not, and gets a
hang-up when whoever asked goes away, because the connection to the shim ends then.
"""

import asyncio
import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from muster.engine import shim
from muster.engine.descriptor import Descriptor
from muster.engine.port import ExecSession
from muster.engine.session import StreamSession, TerminalSession, set_size
from muster.engine.thread import make_in_thread
from muster.errors import EngineRejected, EngineUnavailable
from muster.model.container import Reason
from muster.model.run import ExecOrder

_START_SECONDS = 10.0
_KILLED = 128 + 9
_LONGEST_WORD_BYTES = 64


@dataclass(frozen=True, slots=True)
class _Ends:
    """Our ends of what a command was given, and of the connection to the shim."""

    caller: socket.socket
    given: int
    told: tuple[int, ...]

    def close(self) -> None:
        self.caller.close()
        for number in {self.given, *self.told}:
            os.close(number)


async def open_exec(folder: Path, order: ExecOrder) -> ExecSession:
    """Start a command in the container of a folder. Raises ``EngineRejected`` when that does not run."""
    ends = await make_in_thread(lambda: _start(folder, order), _Ends.close)
    ending = _Ending(Descriptor(ends.caller.detach()))
    if order.has_tty:
        return TerminalSession(Descriptor(ends.given), ending)
    told = {channel: Descriptor(number) for channel, number in enumerate(ends.told, 1)}
    return StreamSession(Descriptor(ends.given), told, ending)


class _Ending:
    """What the shim says at the end."""

    def __init__(self, caller: Descriptor) -> None:
        self._caller = caller
        self._code: int | None = None
        self._lock = asyncio.Lock()

    async def wait(self) -> int:
        async with self._lock:
            if self._code is None:
                word = await self._caller.read(_LONGEST_WORD_BYTES)
                self._code = int(word) if word else _KILLED  # the shim was killed, and the command with it
        return self._code

    async def let_go(self) -> None:
        await asyncio.sleep(0)
        self._caller.close()


def _start(folder: Path, order: ExecOrder) -> _Ends:
    words = [os.fsencode(word) for word in order.command]
    message = (b"t" if order.has_tty else b"p") + b"\0".join(words)
    if len(message) > shim.LONGEST_COMMAND_BYTES or any(b"\0" in word for word in words):
        raise EngineRejected(Reason.ERROR, f"exec of {order.command[0]!r}: no process can be given such a command")
    theirs, given, told = _terminal(order.size) if order.has_tty else _pipes()
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ends = _Ends(caller, given, told)
    try:
        caller.settimeout(_START_SECONDS)
        _connect(caller, folder)
        socket.send_fds(caller, [message], theirs)
        answer = caller.recv(_LONGEST_WORD_BYTES)
    except OSError as error:
        ends.close()
        raise _refusal(folder, error) from error
    finally:
        for number in set(theirs):
            os.close(number)
    if answer != shim.STARTED:
        ends.close()
        raise EngineRejected(Reason.ERROR, f"exec in {folder.name}: it has just ended")
    return ends


def _terminal(size: tuple[int, int] | None) -> tuple[list[int], int, tuple[int, ...]]:
    """Make a terminal; returns the three descriptors of the command, and ours of its input and output."""
    upper, lower = os.openpty()
    if size is not None:
        set_size(upper, *size)
    return [lower, lower, lower], upper, (upper,)


def _pipes() -> tuple[list[int], int, tuple[int, ...]]:
    (read_input, input_end), (output, write_output), (errors, write_errors) = os.pipe(), os.pipe(), os.pipe()
    return [read_input, write_output, write_errors], input_end, (output, errors)


def _connect(caller: socket.socket, folder: Path) -> None:
    """Connect to the shim by a path that is short enough for a socket, wherever the folder is."""
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        caller.connect(f"/proc/self/fd/{opened}/{shim.EXEC}")
    finally:
        os.close(opened)


def _refusal(folder: Path, error: OSError) -> EngineRejected | EngineUnavailable:
    attempt = f"exec in {folder.name}"
    if error.errno == errno.ENOENT:
        return EngineRejected(Reason.ERROR, f"{attempt}: it was started by an older Muster, which knew no such thing")
    if isinstance(error, ConnectionError):
        return EngineRejected(Reason.ERROR, f"{attempt}: it has just ended")
    return EngineUnavailable(f"{attempt}: {error}")
