"""Drains, seen from outside: who is in may finish, who comes new is refused, and every step is told once."""

from pathlib import Path

import pytest

from muster.ingress.gate import Visit
from muster.model.container import Container, ContainerStatus, DrainStep
from muster.model.event import EventKind
from muster.model.machine import Drain
from muster.model.routes import Refusal
from muster.testing.faults import CrashPoint
from muster.testing.harness import Harness
from tests.unit.controller.fronted import fronted, harness, now, said

__all__ = ["harness"]
STATUS, DRAIN = EventKind.STATUS, EventKind.DRAIN
DRAINED = ["takes no new requests; 1 in flight", "nothing is in flight: stopping"]


def serving(harness: Harness, replicas: int = 1, **more: object) -> list[Container]:
    harness.create(replica_num=replicas, **more)  # type: ignore[arg-type]
    harness.settle()
    return harness.running()


def enter(harness: Harness, container: Container) -> Visit:
    visit = harness.ingress.begin(container.uuid)
    assert isinstance(visit, Visit)
    return visit


def has_ended(harness: Harness, container: Container) -> bool:
    return now(harness, container).status is ContainerStatus.SHUTDOWN


def test_a_stop_waits_for_who_is_in_refuses_who_comes_and_tells_each_step(harness: Harness) -> None:
    (container,) = serving(harness)
    visit = enter(harness, container)
    harness.stop_container(container, decrease=True)
    harness.advance(1)
    assert harness.ingress.begin(container.uuid) is Refusal.DRAINING
    harness.advance(20)
    assert now(harness, container).drain is DrainStep.REFUSING
    assert harness.world.running(), "it still serves the one"
    harness.ingress.end(visit)
    harness.advance(2)
    assert has_ended(harness, container)
    assert said(harness, container, DRAIN) == DRAINED
    assert said(harness, container, STATUS)[-2:] == ["shutting_down", "shutdown"]


def test_with_nobody_in_a_stop_takes_as_long_as_the_ingress_needs_to_refuse(harness: Harness) -> None:
    (container,) = serving(harness)
    harness.stop_container(container, decrease=True)
    harness.advance(2)
    assert has_ended(harness, container)


def test_who_does_not_end_in_time_is_cut_off_and_counted(harness: Harness) -> None:
    (container,) = serving(harness)
    enter(harness, container)
    harness.stop_container(container, decrease=True)
    harness.advance(29)
    assert not has_ended(harness, container)
    harness.advance(3)
    assert has_ended(harness, container)
    assert said(harness, container, DRAIN)[-1] == "1 still in flight after 30 s: stopping all the same"


def test_without_an_ingress_that_answers_the_whole_time_is_waited(harness: Harness) -> None:
    (container,) = serving(harness)
    harness.ingress.is_away = True
    harness.advance(5)
    harness.stop_container(container, decrease=True)
    harness.advance(29)
    assert not has_ended(harness, container)
    harness.advance(3)
    assert has_ended(harness, container)
    assert "not known" in said(harness, container, DRAIN)[-1]


def test_an_ingress_that_comes_back_ends_the_wait(harness: Harness) -> None:
    (container,) = serving(harness)
    harness.ingress.is_away = True
    harness.advance(5)
    harness.stop_container(container, decrease=True)
    harness.advance(5)
    assert not has_ended(harness, container)
    harness.ingress.is_away = False
    harness.advance(3)
    assert has_ended(harness, container)


def test_what_was_never_ready_has_nobody_to_wait_for_even_without_an_ingress(harness: Harness) -> None:
    harness.ingress.is_away = True
    harness.create(cmd="deaf")
    harness.advance(10)
    (container,) = harness.running()
    harness.stop_container(container, decrease=True)
    harness.advance(1)
    assert has_ended(harness, container)


def test_a_job_is_not_drained(harness: Harness) -> None:
    harness.create(deployment_type="Job", replica_num=1, parallelism_num=1)
    harness.advance(5)
    (container,) = harness.running()
    enter(harness, container)
    harness.stop_container(container, decrease=True)
    harness.advance(1)
    assert has_ended(harness, container)
    assert said(harness, container, DRAIN) == []


def test_during_the_grace_new_requests_are_still_taken(harness: Harness) -> None:
    (container,) = serving(harness, service={"drain_grace_seconds": 5})
    harness.stop_container(container, decrease=True)
    harness.advance(4)
    visit = enter(harness, container)
    harness.advance(2)
    assert harness.ingress.begin(container.uuid) is Refusal.DRAINING
    harness.ingress.end(visit)
    harness.advance(1)
    assert has_ended(harness, container)


@pytest.mark.parametrize("how", ["scale-in", "host drain", "rollout"])
def test_every_way_to_end_a_container_drains_it(harness: Harness, how: str) -> None:
    uuid = harness.create(replica_num=2)
    harness.settle()
    both = harness.running(uuid)
    visits = [enter(harness, each) for each in both]
    if how == "scale-in":
        harness.scale(uuid, 0)
    elif how == "host drain":
        for machine_id in {each.placement.machine_id for each in both if each.placement}:
            harness.keep_free(machine_id, drain=Drain.NOW)
    else:
        harness.edit(uuid, cmd="serve v2")
    harness.advance(25)
    draining = [each for each in both if now(harness, each).stop is not None]
    assert draining
    assert not any(has_ended(harness, each) for each in draining)
    for visit in visits:
        harness.ingress.end(visit)
    harness.settle()
    for container in both:
        if has_ended(harness, container):
            assert said(harness, container, DRAIN)[-1] == "nothing is in flight: stopping"


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("call", range(1, 13))
def test_a_crash_anywhere_in_a_drain_loses_no_step_and_tells_none_twice(
    tmp_path: Path, call: int, is_after: bool
) -> None:
    with fronted(tmp_path) as harness:
        (container,) = serving(harness)
        visit = enter(harness, container)
        harness.stop_container(container, decrease=True)
        harness.crash(CrashPoint(call, is_after))
        harness.advance(4)
        assert not has_ended(harness, container)
        harness.ingress.end(visit)
        harness.advance(10)
        assert has_ended(harness, container)
        assert said(harness, container, DRAIN) == DRAINED
        harness.settle()


def test_a_server_that_dies_in_a_drain_goes_on_with_it(harness: Harness) -> None:
    (container,) = serving(harness)
    visit = enter(harness, container)
    harness.stop_container(container, decrease=True)
    harness.advance(5)
    harness.crash()
    harness.advance(5)
    assert harness.ingress.begin(container.uuid) is Refusal.DRAINING
    assert not has_ended(harness, container)
    harness.ingress.end(visit)
    harness.advance(3)
    assert has_ended(harness, container)
    assert said(harness, container, DRAIN) == DRAINED
