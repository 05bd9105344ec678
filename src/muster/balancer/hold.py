"""A lease in the hands of an HTTP seam, and an answer's body that keeps it until it has been read.

The lease lasts as long as the body does: read to its end, broken off, or closed. Only an answer that was read to its
end says how long the replica took. A stream of events that says ``[DONE]`` is at its end: OpenAI's SDK closes it there,
before the bytes that end the body, and nothing would ever be learned of language models otherwise.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Generic, NoReturn, TypeVar

import httpx

from muster.balancer.call import outcome_of_error
from muster.balancer.faults import raise_named, require_http
from muster.balancer.lease import Lease, Outcome
from muster.balancer.pools import Pools
from muster.balancer.report import LOAD_HEADER, load_of
from muster.balancer.waiting import Gate
from muster.model.endpoint import Endpoint

DONE = b"data: [DONE]"

T = TypeVar("T")


class Hold(Generic[T]):
    """A lease and the use of its endpoint's pool: both end together, once."""

    def __init__(self, gate: Gate, pools: Pools[T], lease: Lease, answer_by: float) -> None:
        self._gate = gate
        self._answer_by = answer_by
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
        """Where the request goes."""
        return self._lease.endpoint

    @property
    def is_late(self) -> bool:
        """Whether the request's deadline has passed, so that no answer is worth anything."""
        return self._gate.monotonic() >= self._answer_by

    def connect(self) -> T:
        """Return the endpoint's own connections."""
        return self._pool.transport

    def noted(self, response: httpx.Response, outcome: Outcome) -> None:
        """Take over what an answer's head says, refusals among them: the load of everybody, and that it answers."""
        text = response.headers.get(LOAD_HEADER)
        report = load_of(text) if text is not None else None
        if report is not None:
            self._gate.reported(self._lease, report)
        if outcome in (Outcome.OK, Outcome.UNREAD):
            self._gate.answered(self._lease)

    def end(self, outcome: Outcome) -> None:
        """Give the slot back; whatever comes after the first time is ignored."""
        if self._gate.release(self._lease, outcome):
            self._pools.give(self._pool)

    def raise_named(self, error: httpx.TransportError) -> NoReturn:
        """Raise ``error`` with the replica's name, and with the deadline where that has passed."""
        raise_named(error, self.endpoint, "its deadline passed: " if self.is_late else "")


class _Body(Generic[T]):
    """What both kinds of bodies share: with which outcome the lease ends."""

    def __init__(self, hold: Hold[T], outcome: Outcome) -> None:
        self.hold = hold
        self._outcome = outcome
        self._is_whole = False
        self._last = b""

    def _note(self, chunk: bytes) -> None:
        if self.hold.is_late:
            self._end()  # it does answer, but nobody reads on
            raise httpx.ReadTimeout("the rest of its answer had not come")
        self._last = (self._last + chunk[-32:])[-32:]

    def _end(self) -> None:
        is_whole = self._is_whole or self._last.rstrip().endswith(DONE)
        is_cut_short = self._outcome is Outcome.OK and not is_whole
        self.hold.end(Outcome.UNREAD if is_cut_short else self._outcome)

    def _broken(self, error: httpx.TransportError) -> NoReturn:
        self.hold.end(outcome_of_error(error))
        self.hold.raise_named(error)


class AsyncBody(_Body[httpx.AsyncHTTPTransport], httpx.AsyncByteStream):
    """An answer's body in an event loop."""

    def __init__(self, response: httpx.Response, hold: Hold[httpx.AsyncHTTPTransport], outcome: Outcome) -> None:
        super().__init__(hold, outcome)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self._stream = response.stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                self._note(chunk)
                yield chunk
        except httpx.TransportError as error:
            self._broken(error)
        self._is_whole = True

    async def aclose(self) -> None:
        """End the lease, and the connection if something is left to read."""
        try:
            await self._stream.aclose()
        finally:
            self._end()

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


class SyncBody(_Body[httpx.HTTPTransport], httpx.SyncByteStream):
    """An answer's body in a thread."""

    def __init__(self, response: httpx.Response, hold: Hold[httpx.HTTPTransport], outcome: Outcome) -> None:
        super().__init__(hold, outcome)
        assert isinstance(response.stream, httpx.SyncByteStream)
        self._stream = response.stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._stream:
                self._note(chunk)
                yield chunk
        except httpx.TransportError as error:
            self._broken(error)
        self._is_whole = True

    def close(self) -> None:
        """End the lease, and the connection if something is left to read."""
        try:
            self._stream.close()
        finally:
            self._end()

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
