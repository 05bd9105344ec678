"""The httpx seam: transports that send each request to the replica that the balancer chooses.

``httpx.AsyncClient(transport=service.async_transport(), base_url="http://digits")``: scheme, host and port of the URL
are replaced by the chosen endpoint's, everything else is kept, so every SDK that takes an httpx client is balanced.

One send: acquire a lease ▸ send through the endpoint's own connection pool ▸ hand over the answer; the lease ends when
the body has been read, broken off or closed. ``call.py`` decides whether a request that failed or was refused goes
again; ``faults.py`` names the errors. The two transports differ in ``await`` and nothing else.

``lifetime`` is entered at the first request (or by ``with``) and left by closing the transport: the SDK watches the
registry in it. ``response.extensions["muster"]`` tells who answered: ``{"endpoint": id, "sends": n}``.

A request that is cancelled, or whose response is closed unread, gives its lease back. One whose response is neither
read nor closed keeps its lease, as it keeps its connection in httpx itself.

The wait for a replica is bounded by ``extensions={"muster": {"timeout": seconds}}`` or the service's ``wait_seconds``;
httpx's own time-outs bound connecting, writing and reading, each time the request is sent, and its ``pool`` nothing.
"""

import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Generic, Self, TypeVar

import httpx

from muster.balancer.call import Call, is_small
from muster.balancer.faults import as_httpx, require_http
from muster.balancer.lease import Lease, Outcome
from muster.balancer.pools import LIMITS, Pools
from muster.balancer.waiting import AsyncWaiter, Gate, ThreadWaiter
from muster.errors import BalancerError
from muster.model.endpoint import Endpoint

T = TypeVar("T")


class AsyncMusterTransport(httpx.AsyncBaseTransport):
    """Balances the requests of an ``httpx.AsyncClient``; for one event loop."""

    def __init__(self, gate: Gate, *, lifetime: AbstractAsyncContextManager[object] | None = None) -> None:
        self._gate = gate
        self._waiter = AsyncWaiter(gate)
        self._pools = Pools(lambda context: httpx.AsyncHTTPTransport(verify=context, limits=LIMITS))
        self._lifetime = lifetime
        self._exit = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request`` to a replica, and to another one where that is safe and needed."""
        await self._start()
        call = Call(request, now=self._gate.count_call(), wait_seconds=self._gate.wait_seconds)
        for outdated in self._pools.outdated(self._gate.endpoints):
            await outdated.aclose()
        while True:
            hold = _Hold(self._gate, self._pools, await self._acquire(call))
            try:
                response = await self._send(call, hold)
            except httpx.TransportError as error:
                hold.end(call.failed(hold.endpoint, error))
                if not call.may_go_again(self._gate.may_resend, self._gate.monotonic()):
                    raise
            except BaseException:
                hold.end(Outcome.FAILED)
                raise
            else:
                if response is not None:
                    return response

    async def aclose(self) -> None:
        """Close all connections and leave the lifetime."""
        for transport in self._pools.drain():
            await transport.aclose()
        await self._exit.aclose()

    async def _start(self) -> None:
        if self._lifetime is not None:
            lifetime, self._lifetime = self._lifetime, None
            await self._exit.enter_async_context(lifetime)

    async def _acquire(self, call: Call) -> Lease:
        try:
            return await self._waiter.acquire(deadline=call.deadline, tried=call.tried)
        except BalancerError as error:
            raise as_httpx(error, call) from (call.last_error or error)

    async def _send(self, call: Call, hold: "_Hold[httpx.AsyncHTTPTransport]") -> httpx.Response | None:
        """Return the answer; ``None`` if the replica's ingress refused and the request goes elsewhere."""
        response = await hold.connect().handle_async_request(call.addressed_to(hold.endpoint))
        assert isinstance(response.stream, httpx.AsyncByteStream)
        outcome = call.answered(hold.endpoint, response)
        body = _AsyncBody(response.stream, hold, outcome)
        if call.goes_elsewhere(outcome, self._gate.may_resend, self._gate.monotonic()):
            await body.discard(is_small=is_small(response))
            return None
        if outcome is Outcome.OK:
            hold.answered()
        response.extensions["muster"] = {"endpoint": hold.endpoint.id, "sends": call.sends}
        if not call.reads_whole(response):
            response.stream = body
            return response
        try:
            response.stream = httpx.ByteStream(b"".join([chunk async for chunk in body]))
        except BaseException:
            await body.abort()
            raise
        await body.aclose()
        return response


class MusterTransport(httpx.BaseTransport):
    """Balances the requests of an ``httpx.Client``; safe for threads, as the client is."""

    def __init__(self, gate: Gate, *, lifetime: AbstractContextManager[object] | None = None) -> None:
        self._gate = gate
        self._waiter = ThreadWaiter(gate)
        self._starting = threading.Lock()
        self._pools = Pools(lambda context: httpx.HTTPTransport(verify=context, limits=LIMITS))
        self._lifetime = lifetime
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._start()
        return self

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request`` to a replica, and to another one where that is safe and needed."""
        self._start()
        call = Call(request, now=self._gate.count_call(), wait_seconds=self._gate.wait_seconds)
        for outdated in self._pools.outdated(self._gate.endpoints):
            outdated.close()
        while True:
            hold = _Hold(self._gate, self._pools, self._acquire(call))
            try:
                response = self._send(call, hold)
            except httpx.TransportError as error:
                hold.end(call.failed(hold.endpoint, error))
                if not call.may_go_again(self._gate.may_resend, self._gate.monotonic()):
                    raise
            except BaseException:
                hold.end(Outcome.FAILED)
                raise
            else:
                if response is not None:
                    return response

    def close(self) -> None:
        """Close all connections and leave the lifetime."""
        for transport in self._pools.drain():
            transport.close()
        self._exit.close()

    def _start(self) -> None:
        with self._starting:
            if self._lifetime is not None:
                lifetime, self._lifetime = self._lifetime, None
                self._exit.enter_context(lifetime)

    def _acquire(self, call: Call) -> Lease:
        try:
            return self._waiter.acquire(deadline=call.deadline, tried=call.tried)
        except BalancerError as error:
            raise as_httpx(error, call) from (call.last_error or error)

    def _send(self, call: Call, hold: "_Hold[httpx.HTTPTransport]") -> httpx.Response | None:
        """Return the answer; ``None`` if the replica's ingress refused and the request goes elsewhere."""
        response = hold.connect().handle_request(call.addressed_to(hold.endpoint))
        assert isinstance(response.stream, httpx.SyncByteStream)
        outcome = call.answered(hold.endpoint, response)
        body = _SyncBody(response.stream, hold, outcome)
        if call.goes_elsewhere(outcome, self._gate.may_resend, self._gate.monotonic()):
            body.discard(is_small=is_small(response))
            return None
        if outcome is Outcome.OK:
            hold.answered()
        response.extensions["muster"] = {"endpoint": hold.endpoint.id, "sends": call.sends}
        if not call.reads_whole(response):
            response.stream = body
            return response
        try:
            response.stream = httpx.ByteStream(b"".join(body))
        except BaseException:
            body.abort()
            raise
        body.close()
        return response


class _Hold(Generic[T]):
    """A lease and the use of its endpoint's pool: both end together, once."""

    def __init__(self, gate: Gate, pools: Pools[T], lease: Lease) -> None:
        self._gate = gate
        self._pools = pools
        self._lease = lease
        try:
            require_http(lease.endpoint)
            endpoints = gate.endpoints
            self._pool = pools.take(lease.endpoint.url, endpoints.ca_pem if endpoints else None)
        except BaseException:
            gate.release(lease, Outcome.FAILED)
            raise

    @property
    def endpoint(self) -> Endpoint:
        return self._lease.endpoint

    def connect(self) -> T:
        return self._pool.transport

    def answered(self) -> None:
        self._gate.answered(self._lease)

    def end(self, outcome: Outcome) -> None:
        if self._gate.release(self._lease, outcome):
            self._pools.give(self._pool)


class _AsyncBody(httpx.AsyncByteStream):
    """An answer's body; the lease lasts as long as it does, and ends with what the answer said."""

    def __init__(self, stream: httpx.AsyncByteStream, hold: _Hold[httpx.AsyncHTTPTransport], outcome: Outcome) -> None:
        self._stream = stream
        self._hold = hold
        self._outcome = outcome

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except httpx.TransportError:
            self._hold.end(Outcome.FAILED)
            raise

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._hold.end(self._outcome)

    async def discard(self, *, is_small: bool) -> None:
        """End it; a small one is read first, so that its connection can be used again."""
        try:
            if is_small:
                async for _ in self._stream:
                    pass
        except httpx.TransportError:
            pass  # what it said was in the headers
        finally:
            await self.aclose()

    async def abort(self) -> None:
        """Close the connection, and leave the lease to whoever learns why."""
        await self._stream.aclose()


class _SyncBody(httpx.SyncByteStream):
    """An answer's body; the lease lasts as long as it does, and ends with what the answer said."""

    def __init__(self, stream: httpx.SyncByteStream, hold: _Hold[httpx.HTTPTransport], outcome: Outcome) -> None:
        self._stream = stream
        self._hold = hold
        self._outcome = outcome

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except httpx.TransportError:
            self._hold.end(Outcome.FAILED)
            raise

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._hold.end(self._outcome)

    def discard(self, *, is_small: bool) -> None:
        """End it; a small one is read first, so that its connection can be used again."""
        try:
            if is_small:
                for _ in self._stream:
                    pass
        except httpx.TransportError:
            pass  # what it said was in the headers
        finally:
            self.close()

    def abort(self) -> None:
        """Close the connection, and leave the lease to whoever learns why."""
        self._stream.close()
