"""One line of JSON for each request that is over, in a file that several processes write to, or on standard output.

``{"time", "peer", "key", "tenant", "method", "path", "service", "replica", "attempts", "status", "reason",
"queue_seconds", "seconds", "bytes_in", "bytes_out"}``; docs/gateway.md says what they mean. The query is left out
unless it is asked for: people put secrets there. No key is ever in it, only its name.

Lines are gathered and written by a thread, a few times a second, so that a slow disk holds up no request. What is
gathered is bounded: when the disk is slower than the requests, lines are lost, and counted. A batch is written by one
call, to a file that is opened for appending, so lines of several processes do not mix; on a pipe no piece is larger
than what the kernel keeps together, for which texts of clients are cut.

A pipe that nobody reads may hold a thread up for ever. So it is one that no end of a process waits for (the threads of
an executor are joined), and ``aclose`` gives up what is not written after ``CLOSE_SECONDS``.

``reopen`` is for logrotate: what was renamed is let go of, and the name is opened anew.
"""

import asyncio
import contextlib
import datetime
import json
import logging
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from muster.errors import SetupError
from muster.gateway.port import Record

FLUSH_SECONDS = 0.2
MOST_LINES = 20_000
"""Of perhaps 300 bytes each: some seconds of requests at the rate that one process manages."""
CLOSE_SECONDS = 2.0
STANDARD_OUTPUT = "-"
_LONGEST_PATH = 1000
_LONGEST_TENANT = 100
_PIPE_BYTES = 4096
_UTC = datetime.UTC
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode

_log = logging.getLogger(__name__)


def line_of(record: Record, time: float, *, has_query: bool = False) -> str:
    """Return the line about a request that was over at ``time``."""
    target = record.target if has_query else record.target.partition("?")[0]
    return _encode(
        {
            "time": datetime.datetime.fromtimestamp(time, _UTC).isoformat(timespec="milliseconds"),
            "peer": record.peer,
            "key": record.key,
            "tenant": _cut(record.tenant, _LONGEST_TENANT),
            "method": record.method,
            "path": _cut(target, _LONGEST_PATH),
            "service": record.service,
            "replica": record.replica,
            "attempts": record.attempts,
            "status": record.status,
            "reason": record.reason,
            "queue_seconds": round(record.queue_seconds, 6),
            "seconds": round(record.seconds, 6),
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
        }
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"


class AccessLog:
    """Writes lines to ``path``, or to standard output for ``-``; used by one event loop, and closed at its end.

    Raises ``SetupError`` where it cannot be opened.
    """

    def __init__(self, path: str, *, has_query: bool = False) -> None:
        self.lost = 0
        self.path = path
        self.has_query = has_query
        self._lines: list[str] = []
        self._descriptor = self._opened()
        self._is_pipe = not stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._is_to_reopen = False
        self._is_torn = False
        """Whether the last line that was written has no end."""
        self._writing: asyncio.Future[None] | None = None
        self._under_way = 0
        """How many lines are being written."""
        self._trouble = ""
        self._timer: asyncio.TimerHandle | None = None

    def note(self, record: Record, time: float) -> None:
        """Have the line written soon."""
        if len(self._lines) >= MOST_LINES:
            self.lost += 1
            return
        self._lines.append(line_of(record, time, has_query=self.has_query))
        if self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)

    def reopen(self) -> None:
        """Open the name anew before the next line."""
        self._is_to_reopen = True

    async def aclose(self) -> None:
        """Write what is left, if that does not take long."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        until = loop.time() + CLOSE_SECONDS
        while self._writing is not None or self._lines:
            if self._writing is None:
                self._flush()
            if self._writing is not None:
                await asyncio.wait([self._writing], timeout=max(0.0, until - loop.time()))
                await asyncio.sleep(0)  # for ``_written``
            if self._writing is not None and loop.time() >= until:
                lines = self._under_way + len(self._lines)
                _log.warning("the access log %s takes nothing; %d lines are lost", self.path, lines)
                self.lost += lines
                self._lines = []
                return  # its thread has the descriptor still
        if self._descriptor > 2:
            os.close(self._descriptor)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        self._under_way = len(lines)
        loop = asyncio.get_running_loop()
        writing = self._writing = loop.create_future()
        writing.add_done_callback(self._written)
        threading.Thread(target=self._work, args=(loop, writing, lines), name="access log", daemon=True).start()

    def _written(self, done: "asyncio.Future[None]") -> None:
        self._writing = None
        error = None if done.cancelled() else done.exception()
        if error is not None:
            if self._trouble != str(error):
                _log.warning("the access log %s cannot be written: %s; lines are lost", self.path, error)
            self.lost += self._under_way
        self._trouble = "" if error is None else str(error)
        if self._lines and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)

    # In the thread.

    def _work(self, loop: asyncio.AbstractEventLoop, writing: "asyncio.Future[None]", lines: Sequence[str]) -> None:
        error: OSError | None = None
        try:
            self._write(lines)
        except OSError as found:
            error = found
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(_tell, writing, error)

    def _write(self, lines: Sequence[str]) -> None:
        if self._is_to_reopen:
            self._is_to_reopen = False
            self._open_anew()
        for piece in _pieces(lines) if self._is_pipe else [("\n".join(lines) + "\n").encode()]:
            left = memoryview(b"\n" + piece if self._is_torn else piece)
            while left:
                left = left[os.write(self._descriptor, left) :]
                self._is_torn = bool(left)

    def _open_anew(self) -> None:
        if self.path == STANDARD_OUTPUT:
            return
        try:
            descriptor = self._opened()
        except SetupError as error:
            _log.warning("%s; the old file is written to", error)
            return
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._is_torn = False
        self._is_pipe = not stat.S_ISREG(os.fstat(descriptor).st_mode)

    def _opened(self) -> int:
        if self.path == STANDARD_OUTPUT:
            return 1
        try:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise SetupError(f"access_log: {self.path}: cannot be opened for writing: {error.strerror}") from error


def _tell(writing: "asyncio.Future[None]", error: OSError | None) -> None:
    if writing.done():
        return
    if error is None:
        writing.set_result(None)
    else:
        writing.set_exception(error)


def _pieces(lines: Iterable[str]) -> Iterator[bytes]:
    """Return whole lines together, as many as a pipe takes at once."""
    piece = b""
    for line in lines:
        data = line.encode() + b"\n"
        if piece and len(piece) + len(data) > _PIPE_BYTES:
            yield piece
            piece = b""
        piece += data
    if piece:
        yield piece
