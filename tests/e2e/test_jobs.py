"""The types of deployments and the ends of containers as their owner sees them, on processes and on Docker."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muster.client import Container
from tests.e2e.ground import Ground, docker_ground, local_ground, most_at_once
from tests.e2e.world import IDLE, assert_legal

pytestmark = pytest.mark.slow

OnGround = Callable[..., contextlib.AbstractContextManager[Ground]]

NUMBERED = """
for number in 1 2 3 4 5 6 7 8 9; do mkdir {shared}/$number 2>/dev/null && break; done
sleep 0.3
exit $((number % 2 * 3))
"""
"""The runs of all containers are numbered from 1; odd ones fail with 3."""
UNTIL_GO = """
echo "$MUSTER_CONTAINER_UUID" >>{shared}/starts
until [ -e {shared}/go ]; do sleep 0.1; done
"""


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker)])
def on_ground(request: pytest.FixtureRequest, tmp_path: Path) -> OnGround:
    @contextlib.contextmanager
    def enter(**settings: str) -> Iterator[Ground]:
        if request.param == "docker":
            ground = docker_ground(tmp_path, request.getfixturevalue("docker_daemon"), **settings)
        else:
            ground = local_ground(tmp_path, **settings)
        with ground.world:
            yield ground

    return enter


@pytest.fixture
def ground(on_ground: OnGround) -> Iterator[Ground]:
    with on_ground() as ground:
        yield ground


def test_a_job_finishes_exactly_as_many_as_asked_and_never_runs_more_at_once_than_it_may(ground: Ground) -> None:
    uuid = ground.apply("numbers", NUMBERED, kind="job", replicas=5, more="parallelism: 2")

    row = ground.until_stopped("numbers")

    assert (row["finished_num"], row["replica_num"], row["parallelism_num"]) == (5, 5, 2)
    assert sorted(path.name for path in ground.shared.iterdir() if path.name.isdigit()) == ["1", "2", "3", "4", "5"]
    ended = ground.all_of(uuid)
    assert sorted((each.exit_code, each.reason) for each in ended) == [(0, "completed")] * 2 + [(3, "error")] * 3
    events = [each for each in ground.world.events() if each.deployment_uuid == uuid]
    assert most_at_once(events) == 2
    assert_legal(events)
    ground.until_nothing_runs()


def test_a_container_runs_once_and_its_end_is_its_deployments(ground: Ground) -> None:
    uuid = ground.apply("once", NUMBERED, kind="container")
    ground.until_stopped("once")
    (ended,) = ground.all_of(uuid)
    assert (ended.exit_code, ended.reason) == (3, "error"), "a failure is an end like any other"
    assert not (ground.shared / "2").exists()
    ground.until_nothing_runs()


def test_a_container_that_is_stopped_ends_its_deployment(ground: Ground) -> None:
    uuid = ground.apply("alone", IDLE, kind="container")
    (running,) = ground.world.until_ready(uuid, 1)
    ground.world.ask(lambda client: client.stop_container(running.uuid))
    ground.until_stopped("alone")
    (ended,) = ground.all_of(uuid)
    assert (ended.uuid, ended.reason) == (running.uuid, "stopped_by_user")
    ground.until_nothing_runs()


def test_a_stopped_container_of_a_job_is_replaced_and_counts_for_nothing(ground: Ground) -> None:
    uuid = ground.apply("patient", UNTIL_GO, kind="job", replicas=2)
    (first,) = ground.world.until_ready(uuid, 1)
    ground.world.until(lambda: ground.lines("starts") == [first.uuid], "it has begun")
    ground.world.cli("stop", "--container", first.uuid, "--decrease")

    second = ground.world.until(lambda: next(iter(_ready(ground, uuid, first)), None), "another")
    ground.world.until(lambda: ground.lines("starts") == [first.uuid, second.uuid], "it has begun")
    (ground.shared / "go").touch()

    assert ground.until_stopped("patient")["replica_num"] == 2, "a Job is not decreased"
    third = ground.all_of(uuid)[-1]
    assert ground.lines("starts") == [first.uuid, second.uuid, third.uuid]
    assert [each.reason for each in ground.all_of(uuid)] == ["stopped_by_user", "completed", "completed"]
    assert_legal(ground.world.events())


def test_a_replica_set_goes_to_nothing_and_comes_back(ground: Ground) -> None:
    uuid = ground.apply("tide", IDLE, replicas=2)
    first = ground.world.until_ready(uuid, 2)
    ground.world.cli("scale", "tide", "0")
    ground.world.until_ready(uuid, 0)
    ground.until_nothing_runs()
    assert (ground.row("tide")["status"], ground.row("tide")["replica_num"]) == ("running", 0), "it is still wanted"

    ground.world.cli("scale", "tide", "2")
    again = ground.world.until_ready(uuid, 2)
    assert not {each.uuid for each in again} & {each.uuid for each in first}
    assert [each.reason for each in ground.all_of(uuid)[:2]] == ["scaled_in"] * 2


def test_one_container_is_stopped_with_and_without_wanting_one_less(ground: Ground) -> None:
    uuid = ground.apply("pair", IDLE, replicas=2)
    first, second = ground.world.until_ready(uuid, 2)
    ground.world.cli("stop", "--container", first.uuid)
    third = ground.world.until(lambda: next(iter(_ready(ground, uuid, first, second)), None), "a substitute")
    assert {each.uuid for each in ground.world.until_ready(uuid, 2)} == {second.uuid, third.uuid}
    assert ground.row("pair")["replica_num"] == 2

    ground.world.cli("stop", "--container", second.uuid, "--decrease")
    ground.world.cli("stop", "--container", second.uuid, "--decrease")  # which changes nothing any more
    assert [each.uuid for each in ground.world.until_ready(uuid, 1)] == [third.uuid]
    assert ground.row("pair")["replica_num"] == 1
    ground.world.until(lambda: len(_over(ground, uuid)) == 2, "the stopped ones are over")
    assert {each.uuid: each.reason for each in _over(ground, uuid)} == dict.fromkeys(
        (first.uuid, second.uuid), "stopped_by_user"
    )


def test_a_call_that_stops_a_container_may_say_what_is_run_before(ground: Ground) -> None:
    own = 'cmd_before_shutdown: echo "own $MUSTER_CONTAINER_UUID" >>{shared}/before'
    uuid = ground.apply("tidy", IDLE, replicas=2, more=own)
    first, second = ground.world.until_ready(uuid, 2)
    called = ground.told('echo "called $MUSTER_CONTAINER_UUID" >>{shared}/before')
    ground.world.ask(
        lambda client: client.stop_container(first.uuid, decrease_one_replica_num=True, cmd_before_shutdown=called)
    )
    ground.world.until(lambda: len(_over(ground, uuid)) == 1, "the first one's end")
    ground.world.ask(lambda client: client.stop_container(second.uuid, decrease_one_replica_num=True))
    ground.world.until(lambda: len(_over(ground, uuid)) == 2, "the second one's end")
    assert ground.lines("before") == [f"called {first.uuid}", f"own {second.uuid}"]


def test_what_is_deleted_before_it_starts_while_it_does_or_while_it_runs_leaves_nothing(on_ground: OnGround) -> None:
    with on_ground(MUSTER_KEEP_STOPPED_SECONDS="0") as ground:
        kinds = {"replicaset": (2, ""), "job": (2, "parallelism: 2"), "container": (1, "")}
        running = {
            ground.apply(kind, IDLE, kind=kind, replicas=replicas, more=more): replicas
            for kind, (replicas, more) in kinds.items()
        }
        for uuid, replicas in running.items():
            ground.world.until_ready(uuid, replicas)
        with ground.world.client() as client:
            for uuid in running:
                spec = {**client.deployment(uuid).spec, "name": "twin"}
                client.delete_deployment(client.create_deployment(spec))
                begin = ground.world.events()[-1].id
                starting = client.create_deployment(spec)
                next(client.events(after=begin, deployment_uuid=starting))
                client.delete_deployment(starting)
            for uuid in running:
                client.delete_deployment(uuid)
        ground.until_nothing_runs()
        ground.world.until(lambda: not ground.objects(), "nothing is kept")
        assert ground.world.listed("ps", "-a") == []
        assert_legal(ground.world.events())


def _ready(ground: Ground, uuid: str, *but: Container) -> list[Container]:
    """Return containers that are ready, but for these, whatever has become of them since."""
    known = {each.uuid for each in but}
    return [each for each in ground.world.live(uuid) if each.is_ready and each.uuid not in known]


def _over(ground: Ground, uuid: str) -> list[Container]:
    return [each for each in ground.all_of(uuid) if each.status == "shutdown"]
