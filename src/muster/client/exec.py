"""A command in a container, as a client sees it: give input, read output, learn how it ended.

``Client.execute`` makes an ``ExecStream``; what it says to the server is ``muster.model.exec_wire``. One thread of its
own reads the socket, so input, output, a new size and the end wait for each other nowhere: the caller may read output
in one thread and give input in another. What was not read yet is bounded by the protocol's window.

The websockets library does the rest: pings, closing, TLS. Its loopback connections never use a proxy, like ours.
"""

import queue
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import httpx
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from muster.client import wire
from muster.errors import ApiError, ApiUnavailable, InvalidSpec, MusterError
from muster.model import exec_wire
from muster.model.exec_wire import CHUNK_BYTES, WINDOW_BYTES, Channel

_LONGEST_PATH_BYTES = 8000
"""Of path and query: HTTP libraries take request lines of 8 KiB."""
_CLOSE_SECONDS = 5.0


class ExecStream:
    """One command, from its start to its end; use it as a context manager. Leaving it early hangs up.

    Any thread may give input or a size while one reads ``output``. Raises ``ApiUnavailable`` when the server goes
    away, ``ApiError`` when it says that the command's end is not known.
    """

    def __init__(self, connection: ClientConnection, url: str) -> None:
        self._stack = ExitStack()
        self._connection = self._stack.enter_context(connection)
        self._url = url
        self._output: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._outcome: int | str | None = None
        self._credit = WINDOW_BYTES
        self._is_over = False
        self._change = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="exec output", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, data: bytes) -> None:
        """Give it input, waiting until the server has room; what comes after its end is dropped."""
        begin = 0
        while begin < len(data) and (count := self._take_credit(min(len(data) - begin, CHUNK_BYTES))):
            self._send(exec_wire.message(Channel.STDIN, data[begin : begin + count]))
            begin += count

    def write_eof(self) -> None:
        """End its input; output goes on."""
        self._send(exec_wire.close_of_input())

    def resize(self, columns: int, rows: int) -> None:
        """Tell the new size of the terminal."""
        self._send(exec_wire.resize(columns, rows))

    def output(self) -> Iterator[tuple[int, bytes]]:
        """Yield chunks of output as they come, 1 for standard output and 2 for standard error, until its end."""
        while (said := self._output.get()) is not None:
            yield said
            self._send(exec_wire.credit(len(said[1])))

    def exit_code(self) -> int:
        """Return how it ended, once ``output`` is through; follows the shell (128 + signal)."""
        match self._outcome:
            case int(code):
                return code
            case str(text):
                raise ApiError("InternalError", text)
            case _:
                raise ApiUnavailable(f"lost the connection to {self._url} before the command ended")

    def close(self) -> None:
        """Let go of it; a command that still runs gets a hang-up."""
        self._stack.close()
        self._reader.join()

    def _read(self) -> None:
        """Take every message as it comes, so that credits and pings never wait for whoever reads the output."""
        try:
            for raw in self._connection:
                self._take(raw if isinstance(raw, bytes) else raw.encode())
        except ConnectionClosed as end:
            if end.rcvd is not None and end.rcvd.reason and self._outcome is None:
                self._outcome = end.rcvd.reason
        except InvalidSpec as error:
            self._outcome = f"{self._url} does not speak {exec_wire.SUBPROTOCOL}: {error}"
        finally:
            with self._change:
                self._is_over = True
                self._change.notify_all()
            self._output.put(None)

    def _take(self, raw: bytes) -> None:
        channel, payload = exec_wire.parse(raw)
        if channel in {Channel.STDOUT, Channel.STDERR}:
            self._output.put((channel.value, payload))
        elif channel is Channel.END:
            self._outcome = exec_wire.outcome(payload)
        elif channel is Channel.CREDIT:
            with self._change:
                self._credit += exec_wire.credited(payload)
                self._change.notify_all()

    def _take_credit(self, wanted: int) -> int:
        """Return how many bytes may be sent now, at most ``wanted``; none when it is over."""
        with self._change:
            self._change.wait_for(lambda: self._credit or self._is_over)
            taken = 0 if self._is_over else min(wanted, self._credit)
            self._credit -= taken
            return taken

    def _send(self, message: bytes) -> None:
        try:
            self._connection.send(message)
        except ConnectionClosed:
            return  # the reading thread has seen it too, and output ends


def open_stream(
    url: str,
    headers: dict[str, str],
    container_uuid: str,
    command: Sequence[str],
    *,
    has_tty: bool,
    size: tuple[int, int] | None,
    timeout: float,
    trust_env: bool,
) -> ExecStream:
    """Connect to ``url`` (http or https) and start a command. Raises what the API refuses with."""
    query: list[tuple[str, str]] = [("command", word) for word in command] + [("tty", str(has_tty).lower())]
    if size is not None:
        query += [("columns", str(size[0])), ("rows", str(size[1]))]
    path = (
        f"{wire.MUSTER}/containers/{urllib.parse.quote(container_uuid, safe='')}/exec?{urllib.parse.urlencode(query)}"
    )
    if len(path) > _LONGEST_PATH_BYTES:
        raise InvalidSpec("command", "is too long for one call: give it to a shell as its input")
    address = "ws" + url.removeprefix("http") + path
    try:
        connection = connect(
            address,
            ssl=httpx.create_ssl_context(trust_env=trust_env) if address.startswith("wss:") else None,
            subprotocols=[Subprotocol(exec_wire.SUBPROTOCOL)],
            additional_headers=headers,
            compression=None,  # on a local network it costs more than it saves
            proxy=True if trust_env else None,
            open_timeout=timeout,
            close_timeout=_CLOSE_SECONDS,
            max_size=exec_wire.LONGEST_MESSAGE_BYTES,
        )
    except InvalidStatus as error:
        raise _refusal(error, url + path, container_uuid) from error
    except TimeoutError as error:
        raise ApiUnavailable(f"cannot reach {url} within {timeout:g} s") from error
    except WebSocketException as error:
        raise ApiUnavailable(f"cannot open a WebSocket to {url}: {error}") from error
    except OSError as error:
        raise ApiUnavailable(f"cannot reach {url}: is `muster up` running?") from error
    return ExecStream(connection, url)


def _refusal(error: InvalidStatus, url: str, container_uuid: str) -> MusterError:
    """Return what a server's answer in place of a WebSocket stands for."""
    answer = httpx.Response(
        error.response.status_code,
        headers=list(error.response.headers.raw_items()),
        content=bytes(error.response.body),
        request=httpx.Request("GET", url),
    )
    try:
        wire.check(answer, ("container", container_uuid), "application/json")
    except MusterError as refused:
        return refused
    return ApiError("InternalError", f"{url.partition('?')[0]} answers, but opens no WebSocket")
