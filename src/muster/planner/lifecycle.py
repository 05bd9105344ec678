"""What to do next for one container: wanted × observed → row, events, at most one engine call.

``step`` is the whole life of a container as one ordered rule table; the first rule that matches decides. It is called
again after every change, so each rule moves the container one step and leaves the rest to the next call. Same row,
same observation and same time give the same step; at rest the step is empty.

The order inside a step is the crash protocol: the caller commits ``container`` and ``events`` first and makes the
``call`` afterwards. A crash between the two is repaired by calling ``step`` again, because every call is idempotent.

``begin_stop`` is the only way in which a stop is asked for. It writes intent, status and event together, so that
whoever polls events learns of the stop before anything is stopped.

Refused: a stored "next action" column (state that could be derived), and separate recovery code (a restart runs the
same table over what it finds).
"""

import datetime
from dataclasses import dataclass, replace
from enum import StrEnum

from muster.model.container import Container, ContainerStatus, DrainStep, Reason, StopRequest
from muster.model.event import EventKind, NewEvent
from muster.model.routes import ContainerLoad
from muster.model.run import Observation, Phase
from muster.planner.backoff import died_young
from muster.planner.drain import drain

_EXIT_HINTS = {
    126: "the command was found but cannot be executed: is the file executable, is it of this machine's kind?",
    127: "command not found: is it in the image, is PATH right, was a relative path used without cd?",
    137: "killed (SIGKILL): by somebody on the host, or for want of memory",
}


class Call(StrEnum):
    """What the engine is asked to do."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Terms:
    """How long things may last. ``drain_seconds``: how long requests in flight may take to end before a stop.

    ``grace_seconds``: how long new ones are still taken before that. ``pool_seconds``: how long what is left of an
    ended container is offered for reuse (0: it is not).
    """

    drain_seconds: float = 2.0
    grace_seconds: float = 0.0
    keep_stopped_seconds: float = 3600.0
    pool_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """The next row and its events, to be committed first; then the call. ``wake_at``: look again then."""

    container: Container
    events: tuple[NewEvent, ...] = ()
    call: Call | None = None
    wake_at: datetime.datetime | None = None


def begin_stop(container: Container, request: StopRequest) -> tuple[Container, tuple[NewEvent, ...]]:
    """Ask a container to stop; the second and later requests change nothing.

    A placed container goes to ``shutting_down`` with its event. One that was never placed is given up on the spot,
    without events, because the API never showed it.
    """
    if container.stop is not None or container.status is ContainerStatus.SHUTDOWN:
        return container, ()
    wanted = replace(container, stop=request, is_ready=False)
    if container.status is None:
        return replace(wanted, reason=request.reason, released_at=request.requested_at), ()
    return _advance(replace(wanted, reason=request.reason), ContainerStatus.SHUTTING_DOWN, request.requested_at)


def step(
    container: Container,
    observed: Observation,
    now: datetime.datetime,
    terms: Terms,
    load: ContainerLoad | None = None,
) -> Step:
    """Decide the next step of a placed container; see the module's text.

    ``load`` is what is known of the requests behind its addresses, ``None`` if nothing.
    """
    status, phase = container.status, observed.phase
    if status is None or container.released_at is not None:
        return Step(container)
    if status is ContainerStatus.SHUTDOWN:
        return _keep(container, phase, now, terms)
    if phase is Phase.EXITED:
        return Step(*_finish(container, observed, now, terms))
    if phase is Phase.ABSENT:
        if status is ContainerStatus.CREATING:
            return Step(container, call=Call.CREATE)
        return Step(*_finish(container, observed, now, terms))
    if container.stop is not None:
        return _end(container, phase, now, terms, load)
    if phase is Phase.CREATED:
        there = replace(container, addresses=observed.addresses, image_digest=observed.image_digest, message="")
        return Step(*_advance(there, ContainerStatus.STARTING, now), call=Call.START)
    if status is not ContainerStatus.RUNNING:
        running = replace(container, addresses=observed.addresses, started_at=observed.started_at or now)
        return Step(*_advance(running, ContainerStatus.RUNNING, now))
    return Step(container)


def progress(container: Container, text: str, now: datetime.datetime) -> Step:
    """Say what a container that is being created waits for; the same again says nothing."""
    if container.status is not ContainerStatus.CREATING or container.message == text:
        return Step(container)
    return Step(replace(container, message=text), (_said(container, EventKind.PULL, text, now),))


def fail(container: Container, reason: Reason, message: str, now: datetime.datetime, terms: Terms) -> Step:
    """End a container whose engine said that it can never run.

    What it took over stays as long as the pool would have kept it, for its owner to look at; the platform itself does
    not start it again, or files that keep a command from starting would be tried for ever.
    """
    failed = replace(container, reason=reason, message=message, is_ready=False, stopped_at=now)
    if container.reused_from is not None and terms.pool_seconds:
        failed = replace(failed, discard_at=now + datetime.timedelta(seconds=terms.pool_seconds))
    return Step(*_advance(failed, ContainerStatus.SHUTDOWN, now))


def give_up(container: Container, now: datetime.datetime) -> Step:
    """End a container that is to stop on a machine that is lost: its engine can neither be told nor asked.

    If the machine returns, what still runs of it there is destroyed.
    """
    assert container.stop is not None
    message = "its machine does not answer, so nobody saw its end"
    ended = replace(container, reason=container.stop.reason, message=message, is_ready=False, stopped_at=now)
    return Step(*_advance(ended, ContainerStatus.SHUTDOWN, now))


def leave_pool(container: Container, now: datetime.datetime) -> Container:
    """Take what is left of a container out of the pool, to be destroyed; nothing is destroyed while it is pooled."""
    return replace(container, is_pooled=False, discard_at=now)


def _end(container: Container, phase: Phase, now: datetime.datetime, terms: Terms, load: ContainerLoad | None) -> Step:
    """Wait until those who are in are through, then stop. What never ran has nobody to wait for."""
    if phase is not Phase.RUNNING or container.started_at is None:
        return Step(container, call=Call.STOP)
    decided = drain(container, now, load, grace_seconds=terms.grace_seconds, drain_seconds=terms.drain_seconds)
    events = tuple(_said(container, EventKind.DRAIN, text, now) for text in decided.said)
    further = replace(container, drain=decided.step)
    if decided.step is DrainStep.DONE:
        return Step(further, events, call=Call.STOP)
    return Step(further, events, wake_at=decided.wake_at)


def _said(container: Container, kind: EventKind, text: str, now: datetime.datetime) -> NewEvent:
    """Return an event that is nothing but words."""
    assert container.uuid is not None
    assert container.status is not None
    return NewEvent(
        account_id=container.account_id,
        deployment_id=container.deployment_id,
        container_id=container.id,
        container_uuid=container.uuid,
        kind=kind,
        status=container.status,
        created_at=now,
        message=text,
    )


def _keep(container: Container, phase: Phase, now: datetime.datetime, terms: Terms) -> Step:
    """Keep what is left of an ended container for its logs, its files and the pool, then destroy it.

    What still runs, or runs again, is destroyed at once: its GPUs are no longer its own. What is pooled is only
    stopped: it holds files that were promised to be kept.
    """
    ended_at = container.stopped_at or container.updated_at
    due_at = container.discard_at or ended_at + datetime.timedelta(seconds=terms.keep_stopped_seconds)
    if phase is Phase.ABSENT:
        return Step(replace(container, is_pooled=False, released_at=now))
    if phase is Phase.RUNNING:
        return Step(container, call=Call.STOP if container.is_pooled else Call.REMOVE)
    if now < due_at:
        return Step(container, wake_at=due_at)
    if container.is_pooled:  # out of the pool first, in a commit that whoever wants to take it over would notice
        return Step(leave_pool(container, now), wake_at=now)
    return Step(container, call=Call.REMOVE)


def _finish(
    container: Container, observed: Observation, now: datetime.datetime, terms: Terms
) -> tuple[Container, tuple[NewEvent, ...]]:
    """Record the end. A run that was over before anybody saw it running still gets all its events."""
    events: tuple[NewEvent, ...] = ()
    if observed.started_at is not None:
        container = replace(container, started_at=observed.started_at)
        if container.stop is None:
            container, events = _advance(container, ContainerStatus.RUNNING, now)
    reason, message = _why(container, observed)
    ended = replace(
        container,
        reason=reason,
        message=message,
        exit_code=observed.exit_code,
        is_ready=False,
        stopped_at=observed.finished_at or now,
    )
    if observed.phase is Phase.EXITED and _is_reusable(ended, terms):
        assert ended.stopped_at is not None
        discard_at = ended.stopped_at + datetime.timedelta(seconds=terms.pool_seconds)
        ended = replace(ended, is_pooled=True, discard_at=discard_at)
    ended, last = _advance(ended, ContainerStatus.SHUTDOWN, now)
    return ended, events + last


def _is_reusable(ended: Container, terms: Terms) -> bool:
    """Tell whether what is left goes into the pool.

    Not what never ran, which holds nothing that its image does not hold (unless it took over files), and not what
    failed young: the next container would fail of the same files.
    """
    if not terms.pool_seconds or (ended.stop is not None and ended.stop.no_cache):
        return False
    if ended.started_at is None:
        return ended.reused_from is not None
    assert ended.reason is not None
    return not died_young(ended) or ended.reason is Reason.COMPLETED or ended.reason.is_outside


def _why(container: Container, observed: Observation) -> tuple[Reason, str]:
    if container.stop is not None:
        return container.stop.reason, observed.message
    if observed.phase is Phase.ABSENT:
        return Reason.REMOVED_EXTERNALLY, "its engine object is gone, and Muster did not remove it"
    if observed.reason is not None:
        return observed.reason, observed.message
    if observed.exit_code == 0:
        return Reason.COMPLETED, observed.message
    return Reason.ERROR, observed.message or _EXIT_HINTS.get(observed.exit_code or 0, "")


def _advance(
    container: Container, target: ContainerStatus, now: datetime.datetime
) -> tuple[Container, tuple[NewEvent, ...]]:
    """Move the status forward to ``target``, one event per state passed.

    Up to ``running`` every state is passed; on the way to the end those that were not reached are skipped.
    """
    assert container.status is not None
    assert container.uuid is not None
    first = container.status.rank + 1
    if target.rank > ContainerStatus.RUNNING.rank:
        first = max(first, ContainerStatus.SHUTTING_DOWN.rank)
    passed = tuple(ContainerStatus)[first : target.rank + 1]
    if not passed:
        return container, ()
    is_end = target is ContainerStatus.SHUTDOWN
    events = tuple(
        NewEvent(
            account_id=container.account_id,
            deployment_id=container.deployment_id,
            container_id=container.id,
            container_uuid=container.uuid,
            kind=EventKind.STATUS,
            status=status,
            created_at=now,
            reason=container.reason if status.rank > ContainerStatus.RUNNING.rank else None,
            message=container.message if is_end and status is target else "",
            exit_code=container.exit_code if is_end and status is target else None,
        )
        for status in passed
    )
    return replace(container, status=target), events
