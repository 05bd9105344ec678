"""Edits under traffic: a good version takes over without a lost request, a bad one does not, and either survives us."""

import contextlib
import random
from collections.abc import Iterable, Iterator

import pytest

from muster.client import Container, Event, Rollout
from tests.e2e.ground import CLAIMS, most_at_once
from tests.e2e.traffic import Traffic
from tests.e2e.world import IDLE, SERVE, World, assert_legal

pytestmark = pytest.mark.slow

ROOMY, FULL = "RTX 4090", "RTX 3090"
"""Of the second model there are exactly two."""
CRASH = "echo no model >&2; exit 3"
FILE = """
name: {name}
replicas: {replicas}
image: local
gpu: {gpu}
env: {{EDITION: {edition}}}
cmd: |
  {cmd}
service: {{drain: 1s, ready_within: {ready_within}, health_check: {{path: /healthz, interval: 200ms}}}}
"""
KILLS = 5
SEED = 20261124


class Edited:
    """One deployment that is edited under traffic."""

    def __init__(self, world: World, name: str, replicas: int, gpu: str, ready_within: str) -> None:
        self.world = world
        self.name = name
        self.replicas = replicas
        self.gpu = gpu
        self.ready_within = ready_within
        self.uuid = str(self.apply()["deployment_uuid"])
        self.first = world.until_ready(self.uuid, replicas)

    def apply(self, edition: str = "first", cmd: str = SERVE) -> dict[str, str]:
        """Apply the file with another word or command in it."""
        file = FILE.format(
            name=self.name,
            replicas=self.replicas,
            gpu=self.gpu,
            edition=edition,
            cmd=cmd,
            ready_within=self.ready_within,
        )
        answer: dict[str, str] = self.world.listed("apply", "-y", "-f", "-", stdin=file)
        return answer

    def rollout(self) -> Rollout:
        return self.world.ask(lambda client: client.rollouts.status(self.uuid))

    def ready_num(self) -> int:
        return next(each.ready_num for each in self.world.ask(lambda client: list(client.deployments(name=self.name))))

    def until(self, state: str) -> list[int]:
        """Wait until the rollout is there; returns how many were ready, as often as there was time to ask."""
        seen: list[int] = []

        def is_there() -> bool:
            seen.append(self.ready_num())
            return self.rollout().state == state

        self.world.until(is_there, f"the rollout of {self.name} is {state}")
        return seen

    def containers(self) -> list[Container]:
        """Return those that are left, once all of them are ready and as many as wanted."""
        return self.world.until_ready(self.uuid, self.replicas)

    def events(self) -> list[Event]:
        return [each for each in self.world.events() if each.deployment_uuid == self.uuid]


@contextlib.contextmanager
def deployed(world: World, name: str, replicas: int, gpu: str = ROOMY, ready_within: str = "60s") -> Iterator[Edited]:
    edited = Edited(world, name, replicas, gpu, ready_within)
    try:
        yield edited
    finally:
        world.cli("delete", name, "-y")


def least_ready(events: Iterable[Event], enough: int) -> int:
    """Return how many were ready at least, from when there were enough for the first time."""
    ready: set[str] = set()
    least: int | None = None
    for event in events:
        if event.kind == "ready":
            ready.add(event.container_uuid)
        elif event.kind == "unready" or event.status in ("shutting_down", "shutdown"):
            ready.discard(event.container_uuid)
        if least is not None or len(ready) == enough:
            least = len(ready) if least is None else min(least, len(ready))
    assert least is not None, "there never were enough"
    return least


def test_a_good_edit_loses_no_request_and_never_has_fewer_ready_than_wanted(shared: World) -> None:
    with deployed(shared, "good", 3) as good:
        with Traffic(shared.registry_url, "good") as traffic:
            assert good.apply("second")["action"] == "edit"
            seen = good.until("complete")
            after = good.containers()
        assert traffic.failed == []
        assert min(seen) >= 3, seen
        assert least_ready(good.events(), 3) == 3
        assert most_at_once(good.events(), "shutting_down") == 4, "one more than wanted, no more"
        assert {each.version for each in after} == {"v2"}
        assert set(traffic.answered) >= {each.uuid for each in good.first}
        assert_legal(good.events())


def test_where_nothing_more_fits_one_is_drained_first(shared: World) -> None:
    with deployed(shared, "full", 2, FULL) as full:
        with Traffic(shared.registry_url, "full") as traffic:
            full.apply("second")
            seen = full.until("complete")
            after = full.containers()
        assert traffic.failed == []
        assert min(seen) >= 1, seen
        assert least_ready(full.events(), 2) == 1, "one at a time"
        assert most_at_once(full.events()) == 2
        assert {each.version for each in after} == {"v2"}
        assert_legal(full.events())


@pytest.mark.parametrize("gpu", [ROOMY, FULL])
def test_a_version_that_crashes_is_given_up_and_the_good_one_serves_on(shared: World, gpu: str) -> None:
    with deployed(shared, "crashing", 2, gpu) as crashing:
        with Traffic(shared.registry_url, "crashing") as traffic:
            crashing.apply(cmd=CRASH)
            told = shared.run("rollout", "status", "crashing", "-w")
            kept = crashing.containers()
        assert told.code == 1, told
        assert "v2 has failed: containers of v2 died young 3 times" in told.out
        last = told.out.split("the last: ")[1].split(":")[0]
        assert last in {each.container_uuid for each in crashing.events() if each.exit_code == 3}
        assert f"{last}: error (exit code 3); v1 is kept" in told.out
        assert traffic.failed == []
        assert {each.version for each in kept} == {"v1"}
        if gpu == ROOMY:
            assert kept == crashing.first, "nothing happened to them"
            assert least_ready(crashing.events(), 2) == 2
        assert_legal(crashing.events())


def test_a_version_that_never_becomes_ready_is_given_up_and_the_good_one_serves_on(shared: World) -> None:
    with deployed(shared, "mute", 2) as mute:
        with Traffic(shared.registry_url, "mute") as traffic:
            mute.ready_within = "3s"  # of the second version only: the first one may take its time
            mute.apply(cmd=IDLE)
            told = shared.run("rollout", "status", "mute", "-w")
            kept = mute.containers()
        assert told.code == 1, told
        assert "v2 runs, but was not ready within 3 s; v1 is kept" in told.out
        assert traffic.failed == []
        assert kept == mute.first, "nothing happened to them"
        assert least_ready(mute.events(), 2) == 2

        mute.ready_within = "60s"
        mute.apply("mended")
        mended = shared.run("rollout", "status", "mute", "-w")
        assert mended.code == 0, mended
        assert "v3 is good" in mended.out
        assert {each.version for each in mute.containers()} == {"v3"}


def test_a_paused_rollout_replaces_nothing_until_it_is_resumed(shared: World) -> None:
    go = shared.user / "go"
    waits = f"until [ -e {go} ]; do sleep 0.1; done; {SERVE}"
    with deployed(shared, "held", 2) as held, Traffic(shared.registry_url, "held") as traffic:
        held.apply(cmd=waits)
        shared.until(lambda: held.rollout().updated_num == 1, "the first new one")
        assert "v2 is paused; new containers are of v1" in shared.cli("rollout", "pause", "held")
        go.touch()
        three = shared.until_ready(held.uuid, 3)
        for each in three[:2]:
            shared.cli("stop", "--container", each.uuid)
        assert [each.version for each in held.containers()] == ["v2", "v1"], "it goes on with what was good"

        shared.cli("rollout", "resume", "held")
        assert shared.run("rollout", "status", "held", "-w").code == 0
        assert {each.version for each in held.containers()} == {"v2"}
    assert traffic.failed == []


def test_an_edit_is_undone_in_the_middle(shared: World) -> None:
    with deployed(shared, "undone", 2) as undone, Traffic(shared.registry_url, "undone") as traffic:
        undone.apply("second")
        shared.until(lambda: undone.rollout().updated_num == 1, "a new one")
        assert "back to v1" in shared.cli("rollout", "undo", "undone", "-y")
        assert shared.run("rollout", "status", "undone", "-w").code == 0
        assert undone.containers() == undone.first, "the old ones have never stopped"
        history = shared.listed("rollout", "history", "undone")
        told = {each["version"]: (each["is_wanted"], each["is_stable"], each["container_num"]) for each in history}
        assert told == {"v2": (False, False, 0), "v1": (True, True, 2)}
    assert traffic.failed == []


def test_an_edit_that_is_through_is_undone_by_another_rollout(shared: World) -> None:
    with deployed(shared, "regretted", 1) as regretted, Traffic(shared.registry_url, "regretted") as traffic:
        regretted.apply("second")
        regretted.until("complete")
        assert "back to v1" in shared.cli("rollout", "undo", "regretted", "--to", "v1", "-y")
        regretted.until("complete")
        (again,) = regretted.containers()
        assert again.version == "v1"
        assert again != regretted.first[0]
    assert traffic.failed == []


def test_a_restart_makes_every_container_anew(shared: World) -> None:
    with deployed(shared, "again", 2) as again, Traffic(shared.registry_url, "again") as traffic:
        shared.cli("rollout", "restart", "again", "--version", "monday")
        assert shared.run("rollout", "status", "again", "-w").code == 0
        after = again.containers()
        assert {each.version for each in after} == {"monday"}
        assert not {each.uuid for each in after} & {each.uuid for each in again.first}
    assert traffic.failed == []


def test_a_rollout_goes_on_after_the_server_was_killed_in_the_middle(world: World) -> None:
    """Killed whenever so many events have happened; a rollout of three makes 24, so it is always in the middle."""
    starts = world.user / "starts"
    moments = sorted(random.Random(SEED).sample(range(1, 23), KILLS))
    assert world.up_pid is not None
    world.kill(world.up_pid)  # it waits ever longer between restarts; here the next server starts at once
    with deployed(world, "storm", 3) as storm, Traffic(world.registry_url, "storm") as traffic:
        begin = world.events()[-1].id
        storm.apply("second", f'echo "$MUSTER_CONTAINER_UUID" >>{starts}; {SERVE}')
        for moment in moments:
            server = world.server_pid
            world.until(lambda: len(events_since(world, begin)) >= moment, f"event {moment}")  # noqa: B023 it is called here
            world.kill(server)
            world.start_server()
        storm.until("complete")
        after = storm.containers()
        assert {each.version for each in after} == {"v2"}

        live = {each.uuid for each in after}
        world.until(lambda: set(world.commands()) == live, "no processes but theirs")
        assert world.rows(CLAIMS) == [(3,)], "nobody else holds a GPU"
        assert sorted(starts.read_text().split()) == sorted(live), "each was started once, and none in vain"
        assert least_ready(storm.events(), 3) == 3
        assert most_at_once(storm.events(), "shutting_down") == 4
        assert_legal(storm.events())
    assert traffic.failed == []


def events_since(world: World, begin: int) -> list[Event]:
    return world.ask(lambda client: list(client.events(after=begin, follow=False)))
