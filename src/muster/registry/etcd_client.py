"""Talks to etcd v3: transactions with a deadline, and the news of some keys since a revision.

What is used of ``aetcd`` is its generated gRPC stubs (``aetcd.rpc``), on channels of our own. Its ``Client`` was
refused: it knows no TLS, asks for a token once and never again (etcd forgets tokens when it restarts), ends every
watch when one stream breaks, can wait for ever in a lock that a lost stream holds, and makes no use of a second host.

gRPC's own quirks, and what is done about them:

* A channel belongs to the event loop that runs when it is made: channels are made by the first call, not by the URL.
* Cancelling the read of a stream ends the stream: reads are a task of their own, which ends with the stream. A task of
  gRPC's, which nobody can await, ends some milliseconds later.
* A call that ends because its channel was closed raises ``CancelledError`` in whoever awaits it, though nobody
  cancelled that task: it becomes ``RegistryUnavailable``.
* A channel waits up to two minutes before it connects again, uses the proxy that the environment names, and refuses
  answers over 4 MiB: all three are set otherwise.
* Handles of one process share connections and their troubles: each has connections of its own here.

Of several hosts one is used until it fails; then the next. What may be done twice is tried at each within the
deadline; what may not (publishing) fails, since nobody knows whether the first host did it.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
from aetcd import rpc

from muster.errors import RegistryUnavailable
from muster.registry.etcd_url import EtcdAddress

DEADLINE_SECONDS = 2.0
"""For one call, all hosts together: a healthy etcd answers in milliseconds, one that elects a leader within 1–2 s."""

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1000),  # how long one attempt may take
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.keepalive_time_ms", 10_000),  # finds a host that vanished; etcd takes more than one in 5 s for an attack
    ("grpc.keepalive_timeout_ms", 3_000),
)
_ELSEWHERE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_TOKEN_WORDS = ("invalid auth token", "user name is empty", "revision of auth store is old")
_NEEDS_LEADER = ("hasleader", "true")
"""Lets etcd end a watch on a member that is cut off from the others, and would stay quiet for ever."""

_PREAMBLE = re.compile(r"^etcdserver: |^failed to connect to all addresses; last error: \w+: (ipv\S+: )?")

_log = logging.getLogger(__name__)


class EtcdClient:
    """The hosts of one etcd, seen by one event loop."""

    def __init__(self, address: EtcdAddress) -> None:
        self._address = address
        self._hosts: list[_Host] = []
        self._preferred = 0
        self.is_closed = False

    async def txn(
        self,
        attempt: str,
        success: Sequence[Any],
        *,
        compare: Sequence[Any] = (),
        failure: Sequence[Any] = (),
        is_repeatable: bool = True,
    ) -> Any:
        """Do ``success`` if every comparison holds, else ``failure``; return etcd's answer.

        Raises ``RegistryUnavailable``, beginning with ``attempt``, if etcd cannot, will not, or takes too long.
        """
        request = rpc.TxnRequest(compare=compare, success=success, failure=failure)
        deadline = time.monotonic() + DEADLINE_SECONDS
        turns = len(self._address.hosts) if is_repeatable else 1
        while True:
            host = self._host(attempt)
            turns -= 1
            try:
                return await host.txn(request, deadline)
            except grpc.aio.AioRpcError as error:
                if error.code() in _ELSEWHERE:
                    self._leave(host)
                    if turns and time.monotonic() < deadline:
                        continue
                raise RegistryUnavailable(f"{attempt}: etcd at {host.name}: {_words(error)}") from error
            except grpc.aio.UsageError as error:  # closed between two calls of one transaction
                raise RegistryUnavailable(f"{attempt}: the registry was closed") from error
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self.is_closed and task is not None and not task.cancelling():
                    raise RegistryUnavailable(f"{attempt}: the registry was closed") from None
                raise

    @contextlib.asynccontextmanager
    async def watching(self, keys: Sequence[bytes], revision: int) -> AsyncIterator["asyncio.Task[bool]"]:
        """Give a task that ends when one of ``keys`` has changed at or after ``revision``, or when nobody can say.

        Its result says whether something has changed, as it has for all we know where etcd has compacted that history
        away. ``False`` is a stream that broke or was refused: read again, after a pause.
        """
        host = self._host("watch")
        call = host.watch()
        news = asyncio.ensure_future(self._news(host, call, keys, revision))
        try:
            yield news
        finally:
            call.cancel()
            news.cancel()
            await asyncio.wait([news])

    async def aclose(self) -> None:
        """Close the connections; calls under way raise ``RegistryUnavailable``."""
        self.is_closed = True
        hosts, self._hosts = self._hosts, []
        for host in hosts:
            await host.channel.close()

    def _host(self, attempt: str) -> "_Host":
        if self.is_closed:
            raise RegistryUnavailable(f"{attempt}: the registry was closed")
        if not self._hosts:
            self._hosts = [_Host(name, self._address) for name in self._address.hosts]
        return self._hosts[self._preferred]

    def _leave(self, host: "_Host") -> None:
        if self._hosts and self._hosts[self._preferred] is host:
            self._preferred = (self._preferred + 1) % len(self._hosts)

    async def _news(self, host: "_Host", call: Any, keys: Sequence[bytes], revision: int) -> bool:
        try:
            for key in keys:
                create = rpc.WatchCreateRequest(key=key, start_revision=revision)
                await call.write(rpc.WatchRequest(create_request=create))
            while True:
                answer = await call.read()
                if answer is grpc.aio.EOF:
                    return False
                if answer.events:
                    return True
                if answer.canceled:
                    if not answer.compact_revision:
                        _log.debug("etcd at %s ended a watch: %s", host.name, answer.cancel_reason)
                    return bool(answer.compact_revision)
                if answer.header.revision < revision - 1:
                    return False  # etcd has lost what we read, and would only tell what comes after ``revision``
        except grpc.aio.AioRpcError as error:
            if error.code() in _ELSEWHERE:
                self._leave(host)
            return False
        except asyncio.InvalidStateError:
            return False  # the stream ended before we had written


class _Host:
    """One host's channel and token."""

    def __init__(self, name: str, address: EtcdAddress) -> None:
        self.name = name
        self._address = address
        self._token: str | None = None
        self._authenticating = asyncio.Lock()
        if address.tls is None:
            self.channel = grpc.aio.insecure_channel(name, options=_OPTIONS)
        else:
            tls = address.tls
            credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
            self.channel = grpc.aio.secure_channel(name, credentials, options=_OPTIONS)
        self._kv = rpc.KVStub(self.channel)
        self._auth = rpc.AuthStub(self.channel)
        self._watch = rpc.WatchStub(self.channel)

    async def txn(self, request: Any, deadline: float) -> Any:
        """Run a transaction, with a new token if etcd does not know ours (any more)."""
        if self._address.user is not None and self._token is None:
            await self._authenticate(None, deadline)
        token = self._token
        try:
            return await self._kv.Txn(request, timeout=_left(deadline), metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            if self._address.user is None or not _wants_token(error):
                raise
        await self._authenticate(token, deadline)
        return await self._kv.Txn(request, timeout=_left(deadline), metadata=self._metadata())

    def watch(self) -> Any:
        """Open a stream of watches."""
        return self._watch.Watch(metadata=(*self._metadata(), _NEEDS_LEADER))

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return () if self._token is None else (("token", self._token),)

    async def _authenticate(self, known: str | None, deadline: float) -> None:
        """Get a token that is not ``known``: etcd spends a tenth of a second on each, so tasks share one."""
        async with self._authenticating:
            if self._token != known:
                return
            request = rpc.AuthenticateRequest(name=self._address.user, password=self._address.password)
            try:
                self._token = (await self._auth.Authenticate(request, timeout=_left(deadline))).token
            except grpc.aio.AioRpcError as error:
                if "authentication is not enabled" not in (error.details() or ""):
                    raise
                self._token = None  # like etcdctl: whoever needs no password may be given one


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _wants_token(error: grpc.aio.AioRpcError) -> bool:
    details = error.details() or ""
    return error.code() == grpc.StatusCode.UNAUTHENTICATED or any(words in details for words in _TOKEN_WORDS)


def _words(error: grpc.aio.AioRpcError) -> str:
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {DEADLINE_SECONDS:g} s"
    details = _PREAMBLE.sub("", error.details() or "")
    if "user name is empty" in details:
        return "it asks for a user and a password"
    return details or str(error.code())
