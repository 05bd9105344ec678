"""Between the WebSocket of an exec and the engine's session: what comes from one side goes to the other.

In: an accepted socket and a session that has begun. Out: the command's end, told to the client; or nothing, because
the client went away. What is said over the socket is ``model.exec_wire``. Whoever calls ``relay`` closes the session.

Four things go on at once, none waiting for another: messages are read, input is given to the command as fast as it
takes it, the terminal is brought to the newest size, and output is sent as far as the client has credited it. Neither
direction holds more than its window.
"""

import asyncio
import logging

from fastapi import WebSocket, WebSocketDisconnect

from muster.engine.port import ExecSession
from muster.errors import EngineError, InvalidSpec
from muster.model import exec_wire
from muster.model.exec_wire import CHUNK_BYTES, WINDOW_BYTES, Channel

DONE = 1000
"""The WebSocket's own code for a good end."""
MISUSED = 4400
"""Our code for a client that does not keep to the protocol; the reason says how."""
_LONGEST_REASON_BYTES = 123
_log = logging.getLogger(__name__)


async def relay(socket: WebSocket, session: ExecSession) -> None:
    """Pass everything on until the command ends or the client goes away, then close the socket."""
    exchange = _Exchange(socket, session)
    last, code, reason, is_gone = b"", DONE, "", False
    try:
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(work) for work in (exchange.listen(), exchange.feed(), exchange.fit())]
            await exchange.tell()
            last = exec_wire.end(await session.exit_code())
            for task in beside:
                task.cancel()
    except* WebSocketDisconnect:
        is_gone = True
    except* EngineError as errors:
        last = exec_wire.failure(str(errors.exceptions[0]))
    except* InvalidSpec as errors:
        code, reason = MISUSED, str(errors.exceptions[0])
    if not is_gone:
        await _say_goodbye(socket, last, code, reason)


async def _say_goodbye(socket: WebSocket, last: bytes, code: int, reason: str) -> None:
    try:
        if last:
            await socket.send_bytes(last)
        await socket.close(code, reason.encode()[:_LONGEST_REASON_BYTES].decode(errors="ignore"))
    except WebSocketDisconnect:
        _log.debug("an exec's client went away before it heard the end")


class _Exchange:
    """The state of one exec's two directions."""

    def __init__(self, socket: WebSocket, session: ExecSession) -> None:
        self._socket = socket
        self._session = session
        self._input = bytearray()
        self._untaken = 0
        """Bytes of input that came and are not credited yet: in ``_input``, or being written."""
        self._is_input_closed = False
        self._has_input = asyncio.Event()
        self._size = (0, 0)
        self._has_size = asyncio.Event()
        self._credit = WINDOW_BYTES
        self._has_credit = asyncio.Event()

    async def listen(self) -> None:
        """Read messages and leave what they say for the others. Raises ``InvalidSpec`` and ``WebSocketDisconnect``."""
        while True:
            channel, payload = exec_wire.parse(await self._receive())
            match channel:
                case Channel.STDIN:
                    self._take_input(payload)
                case Channel.CLOSE:
                    exec_wire.check_close(payload)
                    self._is_input_closed = True
                    self._has_input.set()
                case Channel.RESIZE:
                    self._size = exec_wire.size(payload)
                    self._has_size.set()
                case Channel.CREDIT:
                    self._credit += exec_wire.credited(payload)
                    self._has_credit.set()
                case _:
                    raise InvalidSpec("message", f"channel {channel.value} is the server's")

    async def feed(self) -> None:
        """Give input to the command, and credit what it took."""
        while True:
            await self._has_input.wait()
            self._has_input.clear()
            while self._input:
                chunk, self._input = bytes(self._input), bytearray()
                await self._session.write(chunk)
                self._untaken -= len(chunk)
                await self._socket.send_bytes(exec_wire.credit(len(chunk)))
            if self._is_input_closed:
                await self._session.write_eof()
                return

    async def fit(self) -> None:
        """Keep the terminal at the newest size; those in between are skipped."""
        while True:
            await self._has_size.wait()
            self._has_size.clear()
            try:
                await self._session.resize(*self._size)
            except EngineError as error:
                _log.warning("a terminal keeps its old size: %s", error)

    async def tell(self) -> None:
        """Send output, until its end, as far as the client has room for it."""
        async for stream, chunk in self._session.output():
            begin = 0
            while begin < len(chunk):
                end = begin + await self._take_credit(min(len(chunk) - begin, CHUNK_BYTES))
                await self._socket.send_bytes(exec_wire.message(stream, chunk[begin:end]))
                begin = end

    async def _receive(self) -> bytes:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", DONE))
        raw = message.get("bytes")
        if raw is None:
            raise InvalidSpec("message", "must be binary")
        return bytes(raw)

    def _take_input(self, payload: bytes) -> None:
        self._untaken += len(payload)
        if self._untaken > WINDOW_BYTES:
            raise InvalidSpec("stdin", "is more than what was credited")
        if self._is_input_closed:
            raise InvalidSpec("stdin", "goes on after its end")
        self._input += payload
        self._has_input.set()

    async def _take_credit(self, wanted: int) -> int:
        """Return how many bytes may be sent now: at least one, at most ``wanted``."""
        while not self._credit:
            self._has_credit.clear()
            await self._has_credit.wait()
        taken = min(wanted, self._credit)
        self._credit -= taken
        return taken
