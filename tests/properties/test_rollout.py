"""Plans applied again and again in a small world lead from one version to the other, and nobody notices.

The world has so many places. What is planned is done; then one thing happens at a time, in any order: a container that
waits gets a place, one comes up, becomes ready or dies, one that is stopped goes.
"""

import datetime
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from muster.model.container import Container, ContainerStatus, Reason, StopRequest
from muster.model.deployment import Deployment, DeploymentStatus, DeploymentType, ServiceSpec
from muster.model.ids import ContainerId
from muster.planner.job import plan_job
from muster.planner.lifecycle import begin_stop
from muster.planner.plan import Plan, Situation
from muster.planner.replica_set import plan_replica_set
from tests.unit.planner.worlds import at, container, deployment, edited, ready, situation

CREATING, RUNNING, SHUTDOWN = ContainerStatus.CREATING, ContainerStatus.RUNNING, ContainerStatus.SHUTDOWN
READY_WITHIN = 60.0
RANDOMS = st.randoms(use_true_random=False)
SIZES = st.integers(1, 9)


@dataclass
class World:
    """A deployment, its containers, and ``places`` for them.

    ``dying`` versions end at once, ``brief`` ones after
    they were ready for a moment, and ``unready`` ones never are.
    """

    wanted: Deployment
    random: Random
    places: int
    containers: list[Container] = field(default_factory=list)
    dying: frozenset[str] = frozenset()
    unready: frozenset[str] = frozenset()
    brief: frozenset[str] = frozenset()
    lost: set[ContainerId] = field(default_factory=set)
    seconds: float = 101.0
    floor: int = 0
    ceiling: int = 1000
    numbers: Iterable[int] = field(default_factory=lambda: itertools.count(1000))

    @property
    def now(self) -> datetime.datetime:
        return at(self.seconds)

    @property
    def live(self) -> list[Container]:
        return [each for each in self.containers if each.is_live and each.id not in self.lost]

    @property
    def free(self) -> int:
        taken = (each.placement is not None and not each.is_finished for each in self.containers)
        return self.places - sum(taken)

    def situation(self) -> Situation:
        numbers = [each.number for each in self.containers if each.id in self.lost]
        completed = sum(each.is_completed for each in self.containers)
        return situation(self.wanted, self.containers, self.seconds, lost=numbers, completed=completed)

    def plan(self) -> Plan:
        def new_id() -> ContainerId:
            return ContainerId(f"{next(iter(self.numbers)):016x}")

        now = self.situation()
        planner = plan_replica_set if self.wanted.spec.type is DeploymentType.REPLICA_SET else plan_job
        found = planner(now, new_id=new_id)
        if found.wants_room and self.free <= 0:
            candidates = [each.id for each in self.containers if each.id in now.outdated and each.is_ready]
            room = self.random.choice(candidates) if candidates else None
            found = planner(replace(now, room=room), new_id=new_id)
        return found

    def act(self) -> Plan:
        """Do what is planned."""
        plan = self.plan()
        asked = {each.container_id: StopRequest(each.reason, self.now) for each in plan.stop}
        self.containers = [
            begin_stop(each, asked[each.id])[0] if each.id in asked else each for each in self.containers
        ]
        version = self.wanted.target_version
        self.containers += [container(int(each, 16), None, born=self.seconds, version=version) for each in plan.start]
        if plan.is_good:
            self.wanted = replace(self.wanted, stable_version=self.wanted.version)
        if plan.failure:
            self.wanted = replace(self.wanted, failure=plan.failure)
        if plan.is_over:
            self.wanted = replace(self.wanted, status=DeploymentStatus.STOPPED)
        self.check()
        return plan

    def happen(self) -> bool:
        """Let one thing happen; tell whether anything could."""
        moves = [each for each in self.containers if not each.is_finished and self._can_move(each)]
        self.seconds += 0.25
        if not moves:
            return False
        self._change(self.random.choice(moves).id, self._moved)
        self.check()
        return True

    def run(self, looks: int = 3000) -> None:
        """Go on until nothing is planned, nothing happens, and time changes nothing either."""
        for _ in range(looks):
            plan = self.act()
            if not self.happen() and plan.is_empty:
                if plan.wake_at is None:
                    return
                self.seconds = max(self.seconds, (plan.wake_at - at(0)).total_seconds())
        raise AssertionError(f"never at rest: {self.plan().report.sentence}")

    def check(self) -> None:
        assert sum(each.is_ready for each in self.live) >= self.floor
        assert len(self.live) <= self.ceiling

    def _can_move(self, each: Container) -> bool:
        if each.status is None:
            return self.free > 0
        if each.stop is not None or each.id in self.lost:
            return each.stop is not None
        if each.is_ready:
            return each.version in self.brief
        return each.status is not RUNNING or self._becomes_ready(each)

    def _becomes_ready(self, each: Container) -> bool:
        return each.version not in self.unready or each.version in self.dying

    def _moved(self, each: Container) -> Container:
        if each.status is None:
            placed = container(each.number, CREATING)
            return replace(each, status=CREATING, placement=placed.placement, uuid=placed.uuid)
        if each.stop is not None:
            return replace(each, status=SHUTDOWN, stopped_at=self.now)
        if each.status is not RUNNING:
            return replace(each, status=RUNNING, started_at=self.now)
        if each.version in self.dying or each.is_ready:
            return replace(each, status=SHUTDOWN, stopped_at=self.now, reason=Reason.ERROR, is_ready=False)
        return replace(each, is_ready=True, ready_at=self.now)

    def _change(self, container_id: ContainerId, change: Callable[[Container], Container]) -> None:
        self.containers = [change(each) if each.id == container_id else each for each in self.containers]


def world(random: Random, size: int, places: int, **more: object) -> World:
    """A deployment of which v1 runs and serves, as far as there are places, and that was edited to v2."""
    made = edited(size)
    wanted = replace(made, spec=replace(made.spec, service=ServiceSpec(ready_within_seconds=READY_WITHIN)))
    up = min(size, places)
    containers = [ready(n, born=n / 10) if n < up else container(n, None) for n in range(size)]
    return World(wanted, random, places, containers, ceiling=size + max(1, size // 4), **more)  # type: ignore[arg-type]


def assert_all_serve(world: World, version: str, num: int) -> None:
    assert {each.version for each in world.live} <= {version}
    assert len(world.live) == world.wanted.spec.replica_num
    assert sum(each.is_ready for each in world.live) == num
    assert world.plan().is_empty


@given(RANDOMS, SIZES, st.integers(1, 4))
def test_where_one_more_fits_no_ready_one_is_ever_missing(random: Random, size: int, spare: int) -> None:
    rolled = world(random, size, size + spare, floor=size)
    rolled.run()
    assert_all_serve(rolled, "v2", size)
    assert rolled.wanted.stable_version == "v2"


@given(RANDOMS, SIZES)
def test_where_no_more_fits_one_is_missing_at_a_time(random: Random, size: int) -> None:
    rolled = world(random, size, size, floor=size - 1)
    rolled.run()
    assert_all_serve(rolled, "v2", size)
    assert rolled.wanted.stable_version == "v2"


@given(RANDOMS, st.integers(2, 9), st.data())
def test_where_not_all_fit_as_many_serve_as_before_but_one(random: Random, size: int, data: st.DataObject) -> None:
    places = data.draw(st.integers(1, size - 1))
    rolled = world(random, size, places, floor=places - 1)
    rolled.run()
    assert_all_serve(rolled, "v2", places)
    assert rolled.wanted.stable_version == "v2"


@given(RANDOMS, SIZES, st.integers(0, 3), st.sampled_from(["dying", "unready", "brief"]))
def test_a_bad_version_goes_back_to_the_good_one(random: Random, size: int, spare: int, kind: str) -> None:
    rolled = world(random, size, size + spare, floor=size - (spare == 0), **{kind: frozenset({"v2"})})
    rolled.run()
    assert rolled.wanted.failure
    assert_all_serve(rolled, "v1", size)


@given(RANDOMS, SIZES, st.integers(-2, 3), st.lists(st.integers(0, 6), max_size=8))
def test_whatever_is_done_in_between_all_is_of_the_target_in_the_end(
    random: Random, size: int, spare: int, deeds: list[int]
) -> None:
    rolled = world(random, size, max(1, size + spare))
    for deed in deeds:
        for _ in range(random.randrange(30)):
            rolled.act()
            rolled.happen()
        _do(rolled, deed)
    rolled.wanted = replace(rolled.wanted, is_paused=False)
    rolled.lost.clear()
    rolled.ceiling = 1000
    rolled.run()
    assert_all_serve(rolled, rolled.wanted.target_version, min(rolled.wanted.spec.replica_num, rolled.places))


def _do(rolled: World, deed: int) -> None:
    wanted, random = rolled.wanted, rolled.random
    anybody = [each for each in rolled.live if each.placement is not None]
    rolled.ceiling = 1000
    if deed == 0:
        rolled.wanted = replace(wanted, is_paused=not wanted.is_paused)
    elif deed == 1:
        rolled.wanted = replace(wanted, spec=replace(wanted.spec, replica_num=random.randrange(10)))
    elif deed == 2:  # another edit, or undo
        stable = (wanted.stable_version or "v1") if any(each.is_ready for each in rolled.live) else None
        version = random.choice(["v1", "v2", "v3"])
        rolled.wanted = replace(wanted, version=version, stable_version=stable, failure="", edited_at=rolled.now)
    elif deed == 3 and anybody:  # one dies
        victim = random.choice(anybody)
        rolled._change(
            victim.id,
            lambda each: replace(each, status=SHUTDOWN, stopped_at=rolled.now, is_ready=False, reason=Reason.ERROR),
        )
    elif deed == 4 and anybody:  # a machine is lost
        rolled.lost |= {random.choice(anybody).id}
    elif deed == 5:  # and comes back
        rolled.lost.clear()
    elif deed == 6 and anybody:  # a user stops one
        rolled._change(
            random.choice(anybody).id, lambda each: begin_stop(each, StopRequest(Reason.STOPPED_BY_USER, rolled.now))[0]
        )


@given(RANDOMS, st.integers(0, 8), st.integers(1, 4), st.integers(1, 5), st.booleans())
def test_a_job_completes_what_was_asked_for_and_ends(
    random: Random, size: int, parallelism: int, places: int, is_troubled: bool
) -> None:
    made = deployment(size)
    spec = replace(made.spec, type=DeploymentType.JOB, parallelism_num=parallelism)
    job = World(replace(made, spec=spec), random, places, dying=frozenset({"v1"}), ceiling=min(size, parallelism))
    for _ in range(random.randrange(60) if is_troubled else 0):
        job.act()
        job.happen()
        _do(job, random.choice([4, 5, 6, 7, 7, 7]))
    job.lost.clear()
    job.ceiling = 1000
    job.run()
    assert job.wanted.status is DeploymentStatus.STOPPED
    assert sum(each.is_completed for each in job.containers) == size
    assert not job.live
