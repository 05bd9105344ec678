"""The httpx seam: transports that send each request to the replica that the balancer chooses.

``httpx.AsyncClient(transport=service.async_transport(), base_url="http://digits")``: scheme, host and port of the URL
are replaced by the chosen endpoint's, everything else is kept, so every SDK that takes an httpx client is balanced.

One send: acquire a lease ▸ send through the endpoint's own connection pool ▸ hand over the answer; the lease ends when
the body has been read, broken off or closed (``hold.py``). ``call.py`` decides whether a request that failed or was
refused goes again; ``options.py`` reads what a request says of itself; ``faults.py`` names the errors. The two
transports differ in ``await``, and in that only the async one can send a request twice at once (``hedge.py``).

``lifetime`` is entered at the first request (or by ``with``) and left by closing the transport: the SDK watches the
registry in it. ``response.extensions["muster"]`` tells who answered: ``{"endpoint": id, "sends": n}``.

A request that is cancelled, or whose response is closed unread, gives its lease back. One whose response is neither
read nor closed keeps its lease, as it keeps its connection in httpx itself.

The wait for a replica is bounded by the option ``timeout`` or the service's ``wait_seconds``; httpx's own time-outs
bound connecting, writing and reading, each time the request is sent, and its ``pool`` nothing; the option ``deadline``
bounds all of it.
"""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Self

import httpx

from muster.balancer.call import Call, FeaturesOf, is_small
from muster.balancer.faults import as_httpx, cause_of
from muster.balancer.hedge import first_of, spare_lease
from muster.balancer.hold import AsyncBody, Hold, SyncBody
from muster.balancer.lease import Lease, Outcome
from muster.balancer.pools import LIMITS, Pools
from muster.balancer.waiting import AsyncWaiter, Gate, ThreadWaiter
from muster.errors import BalancerError, InvalidAsk

_AsyncHold = Hold[httpx.AsyncHTTPTransport]
_SyncHold = Hold[httpx.HTTPTransport]


class AsyncMusterTransport(httpx.AsyncBaseTransport):
    """Balances the requests of an ``httpx.AsyncClient``; for one event loop."""

    def __init__(
        self,
        gate: Gate,
        *,
        lifetime: AbstractAsyncContextManager[object] | None = None,
        features: FeaturesOf | None = None,
    ) -> None:
        self._gate = gate
        self._waiter = AsyncWaiter(gate)
        self._pools = Pools(lambda context: httpx.AsyncHTTPTransport(verify=context, limits=LIMITS))
        self._features = features
        self._lifetime = lifetime
        self._exit = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request`` to a replica, and to another one where that is safe and needed."""
        await self._start()
        call = _call(self._gate, request, self._features)
        if outdated := self._pools.outdated(self._gate.endpoints):
            async with contextlib.AsyncExitStack() as closing:  # closes all, even if this task is cancelled meanwhile
                for transport in outdated:
                    closing.push_async_callback(transport.aclose)
        while True:
            hold = Hold(self._gate, self._pools, await self._acquire(call), call.ask.answer_by)
            response = await (self._send(call, hold) if call.hedge_seconds is None else self._hedged(call, hold))
            if response is not None and call.reads_whole(response):
                response = await self._whole(call, response)
            if response is not None:
                return response
            if pause := call.pause_seconds(random.random()):  # noqa: S311 - spreads load, hides nothing
                await asyncio.sleep(min(pause, max(0.0, call.deadline - self._gate.monotonic())))

    async def aclose(self) -> None:
        """Close all connections and leave the lifetime; who still waits for a replica gets ``ServiceClosed`` then."""
        for transport in self._pools.drain():
            self._exit.push_async_callback(transport.aclose)
        await self._exit.aclose()

    async def _start(self) -> None:
        if self._lifetime is not None:
            lifetime, self._lifetime = self._lifetime, None
            await self._exit.enter_async_context(lifetime)

    async def _acquire(self, call: Call) -> Lease:
        try:
            return await self._waiter.acquire(
                deadline=call.deadline, tried=call.tried, ask=call.ask, since=call.asked_before
            )
        except BalancerError as error:
            raise as_httpx(error, call) from cause_of(error, call)

    async def _send(self, call: Call, hold: _AsyncHold) -> httpx.Response | None:
        """Return the answer; ``None`` if the request is to be sent elsewhere."""
        try:
            request = call.addressed_to(hold.endpoint, self._gate.monotonic)
            response = await hold.connect().handle_async_request(request)
            outcome = call.answered(hold.endpoint, response)
            hold.noted(response, outcome)
        except httpx.TransportError as error:
            _broke(self._gate, call, hold, error)
            return None
        except BaseException:
            hold.end(Outcome.FAILED)
            raise
        body = AsyncBody(response, hold, outcome)
        if call.goes_elsewhere(self._gate.may_resend, self._gate.monotonic()):
            await body.discard(is_small=is_small(response))
            return None
        response.stream = body
        response.extensions["muster"] = {"endpoint": hold.endpoint.id, "sends": call.sends}
        return response

    async def _whole(self, call: Call, response: httpx.Response) -> httpx.Response | None:
        """Read the body of an answer before it is handed over; ``None`` if it broke and the request goes elsewhere."""
        body = response.stream
        assert isinstance(body, AsyncBody)
        try:
            response.stream = httpx.ByteStream(b"".join([chunk async for chunk in body]))
        except httpx.TransportError as error:
            await body.abort()
            _broke(self._gate, call, body.hold, error)
            return None
        except BaseException:
            await body.aclose()
            raise
        await body.aclose()
        return response

    async def _hedged(self, call: Call, hold: _AsyncHold) -> httpx.Response | None:
        """Send, and elsewhere too if no answer comes for a while; return what ``_send`` does."""
        assert call.hedge_seconds is not None
        holds = [hold]

        async def rival() -> Coroutine[Any, Any, httpx.Response | None] | None:
            lease = await spare_lease(self._gate, self._waiter, call, hold.endpoint)
            if lease is None:
                return None
            holds.append(Hold(self._gate, self._pools, lease, call.ask.answer_by))
            return self._send(call, holds[-1])

        answer = None
        try:
            answer = await first_of(self._send(call, hold), rival, call.hedge_seconds, httpx.Response.aclose)
        finally:
            kept = answer.stream.hold if answer is not None and isinstance(answer.stream, AsyncBody) else None
            for each in holds:
                if each is not kept:
                    each.end(Outcome.FAILED)  # for one that was cancelled before it began
        return answer


class MusterTransport(httpx.BaseTransport):
    """Balances the requests of an ``httpx.Client``; safe for threads, as the client is."""

    def __init__(
        self,
        gate: Gate,
        *,
        lifetime: AbstractContextManager[object] | None = None,
        features: FeaturesOf | None = None,
    ) -> None:
        self._gate = gate
        self._waiter = ThreadWaiter(gate)
        self._starting = threading.Lock()
        self._pools = Pools(lambda context: httpx.HTTPTransport(verify=context, limits=LIMITS))
        self._features = features
        self._lifetime = lifetime
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._start()
        return self

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request`` to a replica, and to another one where that is safe and needed."""
        self._start()
        call = _call(self._gate, request, self._features, can_hedge=False)
        for outdated in self._pools.outdated(self._gate.endpoints):
            outdated.close()
        while True:
            hold = Hold(self._gate, self._pools, self._acquire(call), call.ask.answer_by)
            response = self._send(call, hold)
            if response is not None and call.reads_whole(response):
                response = self._whole(call, response)
            if response is not None:
                return response
            if pause := call.pause_seconds(random.random()):  # noqa: S311 - spreads load, hides nothing
                time.sleep(min(pause, max(0.0, call.deadline - self._gate.monotonic())))

    def close(self) -> None:
        """Close all connections and leave the lifetime; who still waits for a replica gets ``ServiceClosed`` then."""
        for transport in self._pools.drain():
            self._exit.callback(transport.close)
        self._exit.close()

    def _start(self) -> None:
        with self._starting:
            if self._lifetime is not None:
                lifetime, self._lifetime = self._lifetime, None
                self._exit.enter_context(lifetime)

    def _acquire(self, call: Call) -> Lease:
        try:
            return self._waiter.acquire(deadline=call.deadline, tried=call.tried, ask=call.ask, since=call.asked_before)
        except BalancerError as error:
            raise as_httpx(error, call) from cause_of(error, call)

    def _send(self, call: Call, hold: _SyncHold) -> httpx.Response | None:
        """Return the answer; ``None`` if the request is to be sent elsewhere."""
        try:
            request = call.addressed_to(hold.endpoint, self._gate.monotonic)
            response = hold.connect().handle_request(request)
            outcome = call.answered(hold.endpoint, response)
            hold.noted(response, outcome)
        except httpx.TransportError as error:
            _broke(self._gate, call, hold, error)
            return None
        except BaseException:
            hold.end(Outcome.FAILED)
            raise
        body = SyncBody(response, hold, outcome)
        if call.goes_elsewhere(self._gate.may_resend, self._gate.monotonic()):
            body.discard(is_small=is_small(response))
            return None
        response.stream = body
        response.extensions["muster"] = {"endpoint": hold.endpoint.id, "sends": call.sends}
        return response

    def _whole(self, call: Call, response: httpx.Response) -> httpx.Response | None:
        """Read the body of an answer before it is handed over; ``None`` if it broke and the request goes elsewhere."""
        body = response.stream
        assert isinstance(body, SyncBody)
        try:
            response.stream = httpx.ByteStream(b"".join(body))
        except httpx.TransportError as error:
            body.abort()
            _broke(self._gate, call, body.hold, error)
            return None
        except BaseException:
            body.close()
            raise
        body.close()
        return response


def _call(gate: Gate, request: httpx.Request, features: FeaturesOf | None, *, can_hedge: bool = True) -> Call:
    """Return the call that ``request`` is, or raise what is wrong with it before anything is sent."""
    try:
        call = Call(request, now=gate.count_call(), wait_seconds=gate.wait_seconds, features=features)
        if call.hedge_seconds is not None and not can_hedge:
            raise InvalidAsk("hedge", "only the async transport can send a request to two replicas at once")
    except (InvalidAsk, BalancerError) as error:
        raise as_httpx(error) from cause_of(error)
    return call


def _broke(gate: Gate, call: Call, hold: Hold[Any], error: httpx.TransportError) -> None:
    """End a send that broke, and raise ``error`` unless the request goes elsewhere."""
    hold.end(call.failed(hold.endpoint, error))
    if not call.may_go_again(gate.may_resend, gate.monotonic()):
        hold.raise_named(error)
