"""A command beside a container's own, by Docker's exec: ``open_exec`` starts it and returns the port's ``ExecSession``.

Three calls make one: ``POST /containers/{id}/exec`` names the command, ``POST /exec/{id}/start`` runs it and turns its
connection into the stream, ``GET /exec/{id}/json`` tells the exit code. The middle one goes over a connection of its
own: only there can input be ended while output goes on (aiodocker's ``Stream`` closes both).

Docker's ways, which the port's users never see:

* Without a terminal output comes in frames (stream, three zeros, length); with one it is raw.
* With a terminal the end of input would end output too, so there it is a key: Ctrl-D.
* A command that cannot be started is told on *standard output*, in runc's words, with exit code 126 or 127.
* Ctrl-P Ctrl-Q would leave the command alone, and Ctrl-P wait for the next key; it is given keys that nobody types.
* Whoever goes away leaves the command running for ever (moby issue 9098). ``aclose`` hangs up: a second exec sends
  SIGHUP to the process group of the one that carries our mark in its environment, as the kernel does when a terminal
  goes. What ignores that (``nohup``) or has a session of its own lives on.
* When the container ends, the command is killed, and the daemon may have forgotten it before it is asked.

Refused: a websocket to Docker (``/attach/ws`` has no twin for exec) and ``docker exec`` as a child process (it needs
the CLI, and a terminal here for one there).
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import aiodocker
import aiohttp
from aiodocker.exceptions import DockerError
from aiodocker.execs import Exec

from muster.errors import EngineError, EngineRejected, EngineUnavailable
from muster.model.container import Reason
from muster.model.ids import random_hex

MARK: Final = "MUSTER_EXEC_ID"
"""The variable by which the processes of one exec are found again."""
_CALL_SECONDS = 10.0
_EXIT_SECONDS = 10.0
"""From the end of the stream to the exit code: Docker is a moment late, a command that closed its output for longer."""
_LONGEST_PAUSE_SECONDS = 0.2
_CHUNK_BYTES = 1 << 16
_LONGEST_HEAD_BYTES = 1 << 16
_STARTED = frozenset({200, 101})
_NOT_CONNECTED = 900
"""aiodocker's own status for "nobody there"."""
_KILLED = 128 + 9
_END_OF_TRANSMISSION = b"\x04"
_NOT_STARTED = b"OCI runtime exec failed: "
_DETACH_KEYS = "ctrl-@,ctrl-^,ctrl-@,ctrl-^,ctrl-@,ctrl-^"

_HANG_UP = """
for folder in /proc/[0-9]*; do
    while read -r line || [ -n "$line" ]; do  # read drops the zeros between variables
        case $line in
        *"$1"*)
            read -r stat < "$folder/stat" || continue
            set -- "$1" ${stat##*") "}
            # of the fields after the name, $3 is the parent: 0 is outside, so this one leads
            if [ "$3" = 0 ]; then kill -HUP "-${folder#/proc/}"; fi
            ;;
        esac
    done < "$folder/environ"
done
"""
"""Builtins only: an image has a shell, or else there is nothing that Muster can run."""

_log = logging.getLogger(__name__)


async def open_exec(
    docker: aiodocker.Docker,
    container: str,
    command: Sequence[str],
    *,
    has_tty: bool,
    size: tuple[int, int] | None = None,
    env: Mapping[str, str] | None = None,
) -> "DockerExec":
    """Start a command in a running container. ``size`` is columns × rows of the terminal.

    Raises ``EngineRejected`` when the container does not run; a command that cannot be started ends with 126 or 127.
    """
    mark = random_hex(32)
    with _told(f"exec in {container}"):
        async with asyncio.timeout(_CALL_SECONDS):
            made = await docker.containers.container(container).exec(
                list(command),
                stdin=True,
                tty=has_tty,
                environment={**(env or {}), MARK: mark},
                detach_keys=_DETACH_KEYS,
            )
            reader, writer = await _connect(docker)
            try:
                await _start(reader, writer, f"/{docker.api_version}/exec/{made.id}/start", has_tty, size)
            except BaseException:
                writer.transport.abort()
                raise
    session = DockerExec(docker, container, made, mark, reader, writer, has_tty=has_tty)
    try:
        if size is not None:  # daemons before API 1.42 do not know it from the start
            await session.resize(*size)
    except BaseException:
        await session.aclose()
        raise
    return session


class DockerExec:
    """One exec and its stream; see the module's text."""

    def __init__(  # noqa: PLR0917  the parts that open_exec has made
        self,
        docker: aiodocker.Docker,
        container: str,
        made: Exec,
        mark: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        has_tty: bool,
    ) -> None:
        self._container = docker.containers.container(container)
        self._exec = made
        self._mark = mark
        self._reader = reader
        self._writer = writer
        self._has_tty = has_tty
        self._exit_code: int | None = None

    async def write(self, data: bytes) -> None:
        """Give it input; what it no longer reads is dropped."""
        if self._writer.is_closing():
            return
        with contextlib.suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    async def write_eof(self) -> None:
        """End its input; with a terminal by Ctrl-D, which programs see at the beginning of a line."""
        if self._has_tty:
            await self.write(_END_OF_TRANSMISSION)
            return
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    async def resize(self, columns: int, rows: int) -> None:
        """Change the size of its terminal; changes nothing once it has ended."""
        with _told("resize of a terminal"):
            async with asyncio.timeout(_CALL_SECONDS):
                try:
                    await self._exec.resize(w=columns, h=rows)
                except DockerError as error:  # 404 or 500, whether it ended, could not be started or has no terminal
                    if error.status == _NOT_CONNECTED:
                        raise

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield chunks of output, 1 for standard output and 2 for standard error, until its end."""
        is_first = True
        with _told("output of a command"):
            async for stream, chunk in self._raw() if self._has_tty else self._frames():
                is_refusal = is_first and not self._has_tty and chunk.startswith(_NOT_STARTED)
                is_first = False
                yield (2 if is_refusal else stream), chunk

    async def exit_code(self) -> int:
        """Return how it ended, once ``output`` is through.

        Raises ``EngineUnavailable`` when the daemon is gone, or when it runs on without its output.
        """
        pause = 0.005
        try:
            async with asyncio.timeout(_EXIT_SECONDS):
                while self._exit_code is None:
                    self._exit_code = await self._ended()
                    if self._exit_code is None:
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        except TimeoutError as error:
            raise EngineUnavailable(f"the command ended its output {_EXIT_SECONDS:g} s ago and still runs") from error
        self._writer.transport.abort()  # the daemon reads no more, and who still writes must not wait for it
        return self._exit_code

    async def aclose(self) -> None:
        """Let go of it: its input ends, and if it still runs it gets a hang-up."""
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        if self._exit_code is not None:
            return
        try:
            with _told("hang-up of a command"):
                async with asyncio.timeout(_CALL_SECONDS):
                    await self._hang_up()
        except EngineError as error:
            _log.warning("exec %s may run on: %s", self._exec.id, error)

    async def _raw(self) -> AsyncIterator[tuple[int, bytes]]:
        while chunk := await self._reader.read(_CHUNK_BYTES):
            yield 1, chunk

    async def _frames(self) -> AsyncIterator[tuple[int, bytes]]:
        try:
            while True:
                header = await self._reader.readexactly(8)
                rest = int.from_bytes(header[4:], "big")
                while rest:
                    chunk = await self._reader.readexactly(min(rest, _CHUNK_BYTES))
                    rest -= len(chunk)
                    yield (1 if header[0] < 2 else 2), chunk
        except asyncio.IncompleteReadError:
            return  # the end; what is left of a frame was lost with the daemon, which exit_code then tells

    async def _ended(self) -> int | None:
        """Return how it ended, or ``None`` while it runs."""
        with _told("exit code of a command"):
            try:
                seen = await self._exec.inspect()
            except DockerError as error:
                if error.status != 404 or (await self._container.show())["State"]["Running"]:
                    raise
                return _KILLED
        return None if seen["Running"] or seen["ExitCode"] is None else int(seen["ExitCode"])

    async def _hang_up(self) -> None:
        if await self._ended() is not None:
            return
        script = ["/bin/sh", "-c", _HANG_UP, "sh", f"{MARK}={self._mark}"]
        caller = await self._container.exec(script, stdout=False, stderr=False)
        await caller.start(detach=True)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what Docker and the way to it raise into the port's errors."""
    try:
        yield
    except DockerError as error:
        if 400 <= error.status < 500:
            raise EngineRejected(Reason.ERROR, f"{what}: {error.message}") from error
        raise EngineUnavailable(f"{what}: {error.message}") from error
    except TimeoutError as error:
        raise EngineUnavailable(f"{what}: Docker does not answer") from error
    except (OSError, EOFError, aiohttp.ClientError) as error:
        raise EngineUnavailable(f"{what}: {error}") from error


async def _connect(docker: aiodocker.Docker) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open one more connection to where a client of Docker is connected to."""
    if isinstance(docker.connector, aiohttp.UnixConnector):
        return await asyncio.open_unix_connection(docker.connector.path, limit=_LONGEST_HEAD_BYTES)
    parts = urlsplit(docker.docker_host)
    if parts.scheme not in {"tcp", "http"} or parts.hostname is None:
        raise EngineRejected(Reason.ERROR, f"exec needs Docker at unix:// or tcp://, not at {docker.docker_host}")
    return await asyncio.open_connection(parts.hostname, parts.port or 2375, limit=_LONGEST_HEAD_BYTES)


async def _start(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, has_tty: bool, size: tuple[int, int] | None
) -> None:
    """Start an exec; afterwards the connection is its stream. Raises ``DockerError``."""
    order: dict[str, Any] = {"Detach": False, "Tty": has_tty}
    if size is not None:
        order["ConsoleSize"] = [size[1], size[0]]
    body = json.dumps(order).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ", 2)[1])
    except (asyncio.LimitOverrunError, IndexError, ValueError) as error:
        raise EngineUnavailable(f"{path}: the answer is no HTTP") from error
    if status in _STARTED:
        return
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    said = await reader.readexactly(min(int(fields.get("content-length", "0")), _LONGEST_HEAD_BYTES))
    raise DockerError(status, _message(said))


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")
