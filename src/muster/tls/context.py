"""The TLS settings of the ingress, and a context whose certificate can be replaced while connections go on.

``ssl`` can load another certificate into a context, but not take the last one out: one with an RSA key would be loaded
beside one with an EC key, and clients would go on getting the old. So each certificate has a context of its own, and
``ReplaceableContext`` passes every *new* connection to the present one. An established connection keeps the context
that it began with.

TLS 1.2 and 1.3, forward secret AEAD ciphers only (Mozilla's "intermediate" without DHE). Renegotiation and compression
are off; session tickets are on, as is the default; a replaced context does not know the tickets of the last, which
costs a full handshake.
"""

import os
import socket
import ssl
from typing import Self

from muster.errors import SetupError
from muster.tls.pair import Pair

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
ALPN = ("http/1.1",)


class ReplaceableContext(ssl.SSLContext):
    """A server's context, for as long as the server listens.

    ``sni_callback`` is the user's to set, and is called with the context of that connection. Nothing else of it may be
    changed, since that would not reach the contexts behind it.
    """

    _present: ssl.SSLContext

    def __new__(cls, pair: Pair) -> Self:  # noqa: ARG004 the base class takes a protocol
        """Make the context that users see; it shows no certificate itself."""
        made = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        _harden(made)
        return made

    def __init__(self, pair: Pair) -> None:
        self._present = server_context(pair)

    def replace(self, pair: Pair) -> None:
        """Show ``pair`` to whoever connects from now on. Raises ``SetupError`` if OpenSSL refuses it."""
        self._present = server_context(pair)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection with the present certificate: asyncio and uvloop come by here."""
        return self._chosen().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def wrap_socket(  # noqa: PLR0917 as the base class has them
        self,
        sock: socket.socket,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLSocket:
        """Begin a connection with the present certificate."""
        return self._chosen().wrap_socket(
            sock, server_side, do_handshake_on_connect, suppress_ragged_eofs, server_hostname, session
        )

    def _chosen(self) -> ssl.SSLContext:
        if self._present.sni_callback is not self.sni_callback:
            self._present.sni_callback = self.sni_callback
        return self._present


def server_context(pair: Pair) -> ssl.SSLContext:
    """Return a context that shows ``pair``. Raises ``SetupError`` if OpenSSL refuses it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    # ``ssl`` reads files only, and the operator's may have changed since they were checked: this one is in memory.
    try:
        with os.fdopen(os.memfd_create("muster-tls"), "wb") as memory:
            memory.write(pair.pem)
            memory.flush()
            context.load_cert_chain(f"/proc/self/fd/{memory.fileno()}")
    except ssl.SSLError as error:
        raise SetupError(f"{pair.path}: OpenSSL refuses it: {error.reason or error}") from error
    except OSError as error:
        raise SetupError(f"{pair.path}: cannot be handed to OpenSSL: {error.strerror}") from error
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(ALPN))
