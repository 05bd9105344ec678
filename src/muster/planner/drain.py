"""How long a container that is to stop goes on serving those who are in.

The order is what makes "no request is cut off" true: the stop request and its event are committed first, so whoever
polls deregisters; the routes that the ingress gets say *refuse*; only a load report that says the container **is**
refusing counts, because only from then on can nothing new begin; and when nothing is in flight any more, or
``drain_seconds`` are over, it is stopped. During ``grace_seconds`` before all that it still takes requests, for
whoever learns of the stop by polling.

Not knowing is not zero: without a report the whole time is waited. A container that was never ready was never told to
anybody, so it has nobody to wait for.

Pure. Out: a ``Drain`` for ``lifecycle.step``, which writes it.
"""

import datetime
from dataclasses import dataclass

from muster.model.container import Container, DrainStep
from muster.model.routes import ContainerLoad


@dataclass(frozen=True, slots=True)
class Drain:
    """How far it is: the step, what is to be said of it, when to look again (``None``: when something is reported)."""

    step: DrainStep
    said: tuple[str, ...] = ()
    wake_at: datetime.datetime | None = None


def drain(
    container: Container,
    now: datetime.datetime,
    load: ContainerLoad | None,
    *,
    grace_seconds: float,
    drain_seconds: float,
) -> Drain:
    """Decide the next step of a running container that is to stop. ``load=None``: nobody knows what is in flight."""
    assert container.stop is not None
    if container.drain is DrainStep.DONE or (container.ready_at is None and load is None):
        return Drain(DrainStep.DONE)
    refuses_from = container.stop.requested_at + datetime.timedelta(seconds=grace_seconds)
    over_at = refuses_from + datetime.timedelta(seconds=drain_seconds)
    # A request further ahead than all this takes: the clock was set back, and to catch up may take it years.
    is_over = not abs(now - container.stop.requested_at) < over_at - container.stop.requested_at
    if is_over:
        return Drain(DrainStep.DONE, (_at_the_end(load, drain_seconds),) if drain_seconds else ())
    if now < refuses_from:
        return Drain(container.drain, wake_at=refuses_from)
    if load is None or not load.is_refusing:
        return Drain(container.drain, wake_at=over_at)
    said: tuple[str, ...] = ()
    if container.drain is DrainStep.NONE:
        said = (f"takes no new requests; {load.in_flight} in flight",)
    if load.in_flight:
        return Drain(DrainStep.REFUSING, said, over_at)
    return Drain(DrainStep.DONE, (*said, "nothing is in flight: stopping"))


def _at_the_end(load: ContainerLoad | None, drain_seconds: float) -> str:
    if load is None:
        return f"what is in flight is not known, so all of {drain_seconds:g} s were waited: stopping"
    if not load.is_refusing:
        return f"the ingress did not refuse new requests within {drain_seconds:g} s: stopping"
    return f"{load.in_flight} still in flight after {drain_seconds:g} s: stopping all the same"
