"""The connections to one Redis: how many, how long they may take, whom they believe.

What redis-py would do by itself and must not:

* It builds a TLS context for each connection, some 40 ms in which the loop stands still, and adds the authorities it
  is given to the system's. Here one context serves all, and ``ca`` says who is believed and nobody else is.
* It tries again and again behind our back. Here a call whose connection turns out to be broken is made once more.
* It takes a cancellation for its own time-out while it connects, and goes on. Here it is raised (``cancellable``).
* It notices a host that vanished only when it writes. Here the kernel asks, since whoever only listens never writes.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from muster.registry.redis_url import RedisAddress

DEADLINE_SECONDS = 2.0
CONNECTIONS = 16

_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}
"""Seconds, seconds, times: a host that vanished is found out after some 20 s."""


class _TrustingConnection(SSLConnection):
    """A TLS connection with a context that was made before."""

    def __init__(self, *, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = context


@contextlib.contextmanager
def cancellable() -> Iterator[None]:
    """Raise ``CancelledError`` at the end, if the task was cancelled meanwhile and redis-py has kept that to itself."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


def make_pool(address: RedisAddress) -> BlockingConnectionPool:
    """Return the connections to ``address``; none is made yet, and no event loop is needed yet."""
    options: dict[str, Any] = {
        "host": address.host,
        "port": address.port,
        "db": address.database,
        "username": address.user,
        "password": address.password,
        "socket_connect_timeout": DEADLINE_SECONDS,
        "socket_timeout": DEADLINE_SECONDS,
        "socket_keepalive": True,
        "socket_keepalive_options": {
            getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)
        },
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        "client_name": "muster",
        "protocol": 2,  # what every Redis and Valkey speaks, and refuses a stranger in plain words in
    }
    if address.has_tls:
        options["context"] = ssl.create_default_context(cafile=address.ca)
    return BlockingConnectionPool(
        connection_class=_TrustingConnection if address.has_tls else Connection,
        max_connections=CONNECTIONS,
        timeout=DEADLINE_SECONDS,
        **options,
    )
