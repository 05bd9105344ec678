"""The explicit form: one slot of one replica, for what no HTTP seam carries; or only an address."""

import errno
import socket
from types import TracebackType

from muster.balancer.ask import Ask
from muster.balancer.call import outcome_of_error
from muster.balancer.lease import Lease, Outcome
from muster.balancer.lifetime import TaskWatch, ThreadWatch
from muster.balancer.options import Options, too_late
from muster.balancer.refusal import outcome_of
from muster.balancer.waiting import AsyncWaiter, Gate, ThreadWaiter
from muster.errors import NoEndpoints, QueueTimeout

_NO_CONNECTION = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT})


class Acquisition:
    """The context of ``Service.acquire``; used once.

    What leaves the block is judged as in the transports: a failed connect (of the system, of asyncio, aiohttp or
    httpx) puts the replica aside, several of httpx's broken connections or read time-outs in a row may do so too; any
    other exception says nothing about it. Whoever is answered 503 with ``x-muster-refused`` tells that by
    ``lease.refused(reason)`` and asks for another lease: nothing was sent to the replica. How long a block lasts that
    ends well is learned as the time that the request took.
    """

    def __init__(self, gate: Gate, options: Options, by_task: TaskWatch, by_thread: ThreadWatch) -> None:
        self._gate = gate
        self._options = options
        self._by_task = by_task
        self._by_thread = by_thread
        self._lease: Lease | None = None

    async def __aenter__(self) -> Lease:
        self._by_task.pin()
        deadline = wait_until(self._gate, self._options)
        self._lease = await AsyncWaiter(self._gate).acquire(deadline=deadline, ask=self._options.ask)
        return self._lease

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(exc)

    def __enter__(self) -> Lease:
        self._by_thread.pin()
        deadline = wait_until(self._gate, self._options)
        self._lease = ThreadWaiter(self._gate).acquire(deadline=deadline, ask=self._options.ask)
        return self._lease

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(exc)

    def _end(self, exc: BaseException | None) -> None:
        assert self._lease is not None
        if self._lease.refusal is not None:
            outcome = outcome_of(self._lease.refusal)
        elif exc is None:
            outcome = Outcome.OK
        elif _did_not_connect(exc):
            outcome = Outcome.UNREACHABLE
        else:
            outcome = outcome_of_error(exc)
        self._gate.release(self._lease, outcome)


def _did_not_connect(error: BaseException) -> bool:
    cause = getattr(error, "os_error", error)  # where aiohttp keeps it
    if isinstance(cause, ConnectionRefusedError | socket.gaierror):
        return True
    # asyncio's error for a name with several addresses has no number, only this text.
    return isinstance(cause, OSError) and (
        cause.errno in _NO_CONNECTION or str(cause).startswith("Multiple exceptions: ")
    )


def wait_until(gate: Gate, options: Options) -> float:
    """Return until when to wait for a slot. Raises ``CannotMeetDeadline`` for a deadline that has passed."""
    now = gate.monotonic()
    if options.ask.answer_by <= now:
        raise too_late(now - options.ask.answer_by)
    seconds = gate.wait_seconds if options.timeout_seconds is None else options.timeout_seconds
    return min(now + seconds, options.ask.answer_by)


def lease_at_once(gate: Gate, ask: Ask, hint: str) -> Lease:
    """Return a lease without waiting; ``hint`` says where a service that is unknown was looked for.

    Raises ``NoEndpoints``, ``QueueTimeout`` and what a waiter raises.
    """
    ticket = gate.ask_here(gate.monotonic() + gate.wait_seconds, ask, wake=_nobody_waits)
    if ticket.lease is not None:
        return ticket.lease
    gate.give_up(ticket)
    present = gate.endpoints
    if present is None:
        raise NoEndpoints(gate.service, f"{gate.service}: unknown service {hint}; wait_ready() waits for it")
    if not present.endpoints:
        raise NoEndpoints(gate.service, f"{gate.service}: nobody serves it; wait_ready() waits for somebody")
    raise QueueTimeout(f"{gate.service}: none of {len(present.endpoints)} replicas is free now", 0.0)


def _nobody_waits() -> None:
    pass
