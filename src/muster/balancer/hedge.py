"""Two sends of one request, and the first answer: for idempotent calls whose caller cannot wait for a slow replica.

The second is sent only when the first has not answered for a while, only to a replica that is free at once, and only
with a token of the retry budget: hedging must not become the load that makes replicas slow (Dean and Barroso, "The
Tail at Scale", 2013: hedged requests, which they send after the 95th percentile for about 5 % more load).

Structured: when ``first_of`` returns or raises, whatever lost is cancelled and over, and what it had is given back;
when it raises, what had won too.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, TypeVar

from muster.balancer.call import Call
from muster.balancer.lease import Lease, Outcome
from muster.balancer.waiting import AsyncWaiter, Gate
from muster.errors import BalancerError
from muster.model.endpoint import Endpoint

T = TypeVar("T")

BROKER_SECONDS = 0.05
"""Far more than the way to a broker and back, far less than what makes a hedge worth sending."""


async def first_of(
    first: Coroutine[Any, Any, T | None],
    second: Callable[[], Awaitable[Coroutine[Any, Any, T | None] | None]],
    seconds: float,
    dispose: Callable[[T], Awaitable[None]],
) -> T | None:
    """Return what comes first; after ``seconds`` of nothing, ``second`` is asked for a rival, and may have none.

    ``None``, and an error, stand only if the other one ends in such a way too; of two errors the last is raised.
    ``dispose`` ends an answer that came too late.
    """
    running: set[asyncio.Future[T | None]] = {asyncio.ensure_future(first)}
    winner: asyncio.Future[T | None] | None = None
    try:
        done, _ = await asyncio.wait(running, timeout=seconds)
        rival = None if done else await second()
        if rival is not None:
            running.add(asyncio.ensure_future(rival))
        while running and not _has_answer(winner):
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            winner = next(filter(_has_answer, done), next(iter(done)))
            running |= done - {winner}  # both may be done at once
    finally:
        try:
            await _end(running - {winner}, dispose)
        except BaseException:
            if winner is not None:
                await _end({winner}, dispose)  # nobody gets its answer any more
            raise
    assert winner is not None
    return winner.result()


async def spare_lease(gate: Gate, waiter: AsyncWaiter, call: Call, busy: Endpoint) -> Lease | None:
    """Return a lease of another replica than ``busy``, if there is one at once and the retry budget has a token.

    At once is what a broker takes to answer, where one chooses.
    """
    tried = call.tried | {busy.id}
    lease: Lease | None
    try:
        if gate.is_shared:
            lease = await waiter.acquire_spare(
                seconds=BROKER_SECONDS, deadline=call.deadline, tried=tried, ask=call.ask, since=call.since
            )
        else:
            ticket = gate.ask(call.deadline, tried, _nobody_waits, call.ask, call.since)
            lease = ticket.lease
            if lease is None:
                gate.give_up(ticket)
    except BalancerError:
        return None
    if lease is not None and (lease.endpoint.id == busy.id or not gate.may_resend()):
        gate.release(lease, Outcome.FAILED)
        return None
    return lease


def _nobody_waits() -> None:
    pass


def _has_answer(future: "asyncio.Future[T | None] | None") -> bool:
    return future is not None and not future.cancelled() and future.exception() is None and future.result() is not None


async def _end(losers: "set[asyncio.Future[T | None]]", dispose: Callable[[T], Awaitable[None]]) -> None:
    for each in losers:
        each.cancel()
    cancelled = await _over(losers)
    answers = [answer for each in filter(_has_answer, losers) if (answer := each.result()) is not None]
    disposals = {asyncio.ensure_future(dispose(each)) for each in answers}
    cancelled = await _over(disposals) or cancelled
    if cancelled is not None:
        raise cancelled
    for disposal in disposals:
        disposal.result()


async def _over(futures: "Collection[asyncio.Future[Any]]") -> asyncio.CancelledError | None:
    """Wait for the end of all; return a cancellation of ours meanwhile: what they hold is given back first."""
    cancelled = None
    while pending := [each for each in futures if not each.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled
