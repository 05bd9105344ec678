"""Which name each TLS connection asked for, where one port serves all containers.

The name comes in the handshake (SNI), long before the loop makes a transport of the connection, and what is known of it
then is only the connection's TLS object. So the name is kept by that object, weakly: it is forgotten with it.
"""

import asyncio
import ssl
from weakref import WeakKeyDictionary


class ServerNames:
    """Listens to the handshakes of a context."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._names: WeakKeyDictionary[ssl.SSLObject, str] = WeakKeyDictionary()
        context.sni_callback = self._note

    def of(self, transport: asyncio.BaseTransport) -> str:
        """Return the name that a connection asked for, in lower case; empty if it gave none."""
        tls = transport.get_extra_info("ssl_object")
        return "" if tls is None else self._names.get(tls, "")

    def _note(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        if name is not None and isinstance(connection, ssl.SSLObject):
            self._names[connection] = name.rstrip(".").lower()
