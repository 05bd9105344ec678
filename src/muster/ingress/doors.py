"""The listening sockets of one port: one for each address of this host that it is to be reached by."""

import logging
import socket
from collections.abc import Callable, Sequence

from muster.ingress.listener import Listener
from muster.ingress.sockets import listen_on

_log = logging.getLogger(__name__)
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104  compared with, not bound to


class Door:
    """A port; what is accepted goes to ``admit``."""

    def __init__(self, port: int, admit: Callable[[socket.socket], None]) -> None:
        self.port = port
        self._admit = admit
        self._listeners: dict[str, Listener] = {}
        self._troubles: dict[str, str] = {}
        self._wanted: tuple[str, ...] = ()

    @property
    def hosts(self) -> frozenset[str]:
        """Where it is open."""
        return frozenset(self._listeners)

    def open_at(self, host: str, others: Sequence[str] = ()) -> str:
        """Be open at exactly these addresses; return why not at ``host``, nothing if it is.

        Without one of the others the port is reached all the same: that is logged, once, and tried again with the next
        call. A wildcard covers them all.
        """
        wanted = (host,) if host in WILDCARDS or not others else tuple(dict.fromkeys((host, *others)))
        if wanted == self._wanted and self.is_whole:
            return ""  # as it is with nearly all, each time
        self._wanted = wanted
        for each in [each for each in self._listeners if each not in wanted]:
            self._listeners.pop(each).close()
        self._troubles = {each: self._open(each) for each in wanted}
        return self._troubles[host]

    def close(self) -> None:
        """Accept nothing more; what was accepted goes on."""
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()

    @property
    def is_whole(self) -> bool:
        """Whether it is open wherever it is to be."""
        return not any(self._troubles.values())

    def _open(self, host: str) -> str:
        if host in self._listeners:
            return ""
        try:
            listening = listen_on(host, self.port)
        except OSError as error:
            reason = error.strerror or str(error)
            if reason != self._troubles.get(host):
                _log.warning("cannot listen on %s port %d: %s", host, self.port, reason)
            return reason
        self._listeners[host] = Listener(listening, self._admit)
        if self._troubles.get(host):
            _log.info("listening on %s port %d after all", host, self.port)
        return ""
