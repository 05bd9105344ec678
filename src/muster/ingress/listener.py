"""One listening socket and the connections that come through it.

Accepting is our own, not the loop's server: what was accepted is counted and looked at before a protocol is chosen. It
never spins. Without descriptors the socket stays readable and every ``accept`` fails, so accepting rests a moment,
which is long enough for connections to end.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

_BATCH = 64
"""Of connections that are accepted before anything else gets its turn."""
REST_SECONDS = 0.5
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_log = logging.getLogger(__name__)


class Listener:
    """Accepts on a socket, which it owns, until it is closed; each connection goes to ``admit``."""

    def __init__(self, listening: socket.socket, admit: Callable[[socket.socket], None]) -> None:
        self._socket = listening
        self._admit = admit
        self._loop = asyncio.get_running_loop()
        self._rest: asyncio.TimerHandle | None = None
        self._loop.add_reader(listening, self._accept)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port, *_ = self._socket.getsockname()
        return str(host), int(port)

    def close(self) -> None:
        """Stop listening; what was accepted goes on."""
        self._loop.remove_reader(self._socket)
        if self._rest is not None:
            self._rest.cancel()
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(_BATCH):
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._take_a_rest(error)
                    return
                continue  # accept(2): this one connection is broken; the next may be well
            self._admit(accepted)

    def _take_a_rest(self, error: OSError) -> None:
        _log.warning("cannot accept on %s port %d: %s; resting for %.1f s", *self.address, error, REST_SECONDS)
        self._loop.remove_reader(self._socket)
        self._rest = self._loop.call_later(REST_SECONDS, self._go_on)

    def _go_on(self) -> None:
        self._rest = None
        self._loop.add_reader(self._socket, self._accept)
