"""A whole control plane in one process, in virtual time, over a fake engine and a real SQLite file.

``Harness`` is the world that outlives the control plane (database, engine world, registry) and the supervisor that
starts a new life after each crash. Tests act as users do, through the HTTP API; they disturb the world through
``world`` (the engine's hosts), ``trouble`` (the way there) and ``crash``; and they ask for the level that should be
reached (a service whose command says ``deaf`` runs and answers no probe)::

    with Harness(tmp_path) as harness:
        uuid = harness.create(replica_num=3)
        harness.settle()
        assert len(harness.running(uuid)) == 3

``check`` asserts what must hold at every instant; ``settle`` waits for the end of all change and asserts that what is
wanted is what there is. All methods are plain calls: the loop runs only inside them, so a test sees a still world.
"""

import asyncio
import datetime
import random
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from muster import registry, store
from muster.api.addresses import Reach
from muster.api.app import create_app
from muster.api.auth import ensure_admin
from muster.controller.demand import load_requests
from muster.controller.deployments import outdated_of, plan_of
from muster.controller.plane import ControlPlane, PlaneOptions
from muster.controller.probe import Verdict
from muster.discovery.watcher import Watcher
from muster.feed import StoreFeed
from muster.model.container import Address, Container, ContainerStatus, Reason
from muster.model.deployment import (
    Deployment,
    DeploymentStatus,
    DeploymentType,
    HealthCheck,
    RolloutState,
    Version,
)
from muster.model.event import Event, EventKind
from muster.model.ids import ContainerId, DeploymentId, MachineId, random_hex
from muster.model.image import LOCAL_IMAGE
from muster.model.machine import Drain, Machine
from muster.model.quantity import GIB
from muster.planner.backoff import history_needed
from muster.planner.lifecycle import Terms
from muster.planner.plan import Plan
from muster.planner.replica_set import SURGE_SHARE
from muster.scheduler.explain import Explanation
from muster.scheduler.place import Placed, place
from muster.store.port import EventQuery, Transaction, Window
from muster.testing.bodies import create_body
from muster.testing.clock import FakeClock, Outstanding, VirtualLoop
from muster.testing.database import empty_database
from muster.testing.executor import InlineExecutor
from muster.testing.fake_engine import FakeEngine, FakeWorld
from muster.testing.fake_ingress import FakeIngress
from muster.testing.faults import Crash, CrashPoint, Life, MortalEngine, MortalRegistry, MortalStore, Trouble
from muster.vault import Vault

T = TypeVar("T")
TOKEN = "mst_harness"  # noqa: S105  of a world in memory
RESTART_SECONDS = 0.2
LEASE_SECONDS = 600.0
"""Nobody else publishes here, so days of virtual time need not be full of heartbeats."""
SETTLE_SECONDS = 1800.0
"""Longest virtual time that a world may need to come to rest: more than two of the longest backoffs."""
TERMS = Terms(drain_seconds=2.0, keep_stopped_seconds=600.0, pool_seconds=900.0)
OPTIONS = PlaneOptions(terms=TERMS, full_pass_seconds=30.0)


def small_fleet() -> list[Machine]:
    """Two machines with four GPUs of one model, one with two of another."""
    return [
        _machine("a" * 10, "RTX 4090", 4, "lab-a"),
        _machine("b" * 10, "RTX 4090", 4, "lab-a"),
        _machine("c" * 10, "RTX 3090", 2, "lab-b"),
    ]


def fleet(machine_num: int, *, gpu_num: int = 1) -> list[Machine]:
    """So many machines of one kind; their ids are their numbers."""
    return [_machine(f"{number:010}", "RTX 4090", gpu_num, "lab-a") for number in range(machine_num)]


def _machine(machine_id: str, gpu_name: str, gpu_num: int, data_center: str) -> Machine:
    return Machine(
        id=MachineId(machine_id),
        data_center=data_center,
        gpu_name=gpu_name,
        gpu_num=gpu_num,
        cpu_num=16 * gpu_num,
        memory_bytes=64 * GIB * gpu_num,
        cuda=128,
        price_milliyuan=1980,
    )


class Harness:
    """See the module's text."""

    def __init__(
        self,
        folder: Path,
        *,
        machines: Sequence[Machine] = (),
        options: PlaneOptions = OPTIONS,
        seed: int = 0,
        vault: Vault | None = None,
    ) -> None:
        self._outstanding = Outstanding()
        self._loop = VirtualLoop(self._outstanding)
        self.clock = FakeClock(self._loop)
        self.world = FakeWorld(self.clock)
        self.machines = list(machines) or small_fleet()
        self._options = options
        self._random = random.Random(seed)  # noqa: S311  reproducible on purpose
        self._store = store.connect(empty_database(folder), executor=InlineExecutor())
        self.registry = registry.connect(f"memory://harness-{random_hex(16)}")
        self._front = front = None if options.front is None else options.front.front
        self._feed = StoreFeed(self._store, self.clock, front)
        self._life = Life(self._outstanding)
        self.trouble = Trouble()
        self.crashes = 0
        self._supervisor: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._ceilings: dict[DeploymentId, int] = {}
        self._surges: dict[DeploymentId, int] = {}
        self._asked: dict[DeploymentId, int] = {}
        self._stopped: set[DeploymentId] = set()
        self._plane: ControlPlane | None = None
        self._vault = vault
        self.ingress = FakeIngress(self.clock, lambda: self._plane.ingress if self._plane else None)
        app = create_app(
            store=self._store,
            clock=self.clock,
            registry=self.registry,
            access=FakeEngine(self.world),
            reach=Reach(front, None if vault is None else vault.open),
            explain=self.explain,
            is_ready=lambda: True,
            isolates_tenants=True,
            random_hex=self._random_hex,
        )
        self._api = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://api", headers={"Authorization": TOKEN}
        )

    def __enter__(self) -> Self:
        """Prepare the store and start the first life."""
        self.do(self._prepare())
        self._supervisor = self._loop.create_task(self._supervise())
        if self._options.front is not None:
            self._following = self._loop.create_task(self.ingress.run())
        self.do(asyncio.sleep(0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End everything and check that no task is left behind."""
        assert self._supervisor is not None
        self._life.end()
        self._supervisor.cancel()
        if self._following is not None:
            self._following.cancel()
        try:
            self.do(self._end())
            left = asyncio.all_tasks(self._loop)
            assert not left, f"tasks without an owner: {left}"
        finally:
            self._loop.close()

    # What a user does.

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call the AutoDL API; returns ``data``, raises ``AssertionError`` for an error envelope."""
        envelope = self.do(self._call(method, path, body or {}))
        assert envelope["code"] == "Success", envelope
        return envelope["data"]

    def create(self, *, replica_num: int = 1, cmd: str = "serve", gpu_num: int = 1, **more: Any) -> DeploymentId:
        """Create a deployment through the API; ``more`` goes into the body's top level, ``template`` into its own."""
        template = {"gpu_num": gpu_num, **more.pop("template", {})}
        body = create_body(more.pop("name", "asr"), replica_num=replica_num, cmd=cmd, template=template, **more)
        deployment_id = DeploymentId(self.call("POST", "/api/v1/dev/deployment", body)["deployment_uuid"])
        self._ceilings[deployment_id] = min(replica_num, more.get("parallelism_num", replica_num))
        self._asked[deployment_id] = replica_num
        return deployment_id

    def scale(self, deployment_id: DeploymentId, replica_num: int) -> None:
        """Change how many replicas are wanted."""
        body = {"deployment_uuid": deployment_id, "replica_num": replica_num}
        self._expect(deployment_id, replica_num)
        self.call("PUT", "/api/v1/dev/deployment/replica_num", body)

    def edit(self, deployment_id: DeploymentId, *, replica_num: int | None = None, **changes: Any) -> str:
        """Edit a deployment; ``changes`` are of its ``container_template``, or its ``service`` or ``version``."""
        body: dict[str, Any] = {"deployment_uuid": deployment_id, "container_template": changes}
        body |= {key: changes.pop(key) for key in ("service", "version", "parallelism_num") if key in changes}
        if replica_num is not None:
            self._expect(deployment_id, replica_num)
            body["replica_num"] = replica_num
        self._ceilings[deployment_id] = max(self._ceilings[deployment_id], body.get("parallelism_num", 0))
        self._expect_surge(deployment_id)
        return str(self.call("PUT", "/api/v1/dev/deployment", body)["version"])

    def pause(self, deployment_id: DeploymentId) -> None:
        """Pause a rollout."""
        self.do(self._call("POST", f"/api/v1/muster/deployments/{deployment_id}/rollout/pause", {}))

    def resume(self, deployment_id: DeploymentId) -> None:
        """Let a rollout go on."""
        self._expect_surge(deployment_id)
        self.do(self._call("POST", f"/api/v1/muster/deployments/{deployment_id}/rollout/resume", {}))

    def undo(self, deployment_id: DeploymentId, version: str | None = None) -> None:
        """Go back to a version."""
        self._expect_surge(deployment_id)
        body = {} if version is None else {"version": version}
        self.do(self._call("POST", f"/api/v1/muster/deployments/{deployment_id}/rollout/undo", body))

    def stop_container(self, container: Container, *, decrease: bool = False, no_cache: bool = False) -> None:
        """Stop one container."""
        body = {
            "deployment_container_uuid": container.uuid,
            "decrease_one_replica_num": decrease,
            "no_cache": no_cache,
        }
        self.call("PUT", "/api/v1/dev/deployment/container/stop", body)

    def stop(self, deployment_id: DeploymentId) -> None:
        """Stop a deployment."""
        self._stopped.add(deployment_id)
        self.call("PUT", "/api/v1/dev/deployment/operate", {"deployment_uuid": deployment_id, "operate": "stop"})

    def delete(self, deployment_id: DeploymentId) -> None:
        """Delete a deployment."""
        self._stopped.add(deployment_id)
        self.call("DELETE", "/api/v1/dev/deployment", {"deployment_uuid": deployment_id})

    # What happens to the platform.

    def crash(self, point: CrashPoint | None = None) -> None:
        """Kill the control plane, now or at a call to come; the supervisor starts it again."""
        if point is not None:
            self._life.doom(point)
            return
        self._life.end()
        self.advance(RESTART_SECONDS * 2)

    def heal(self, machine_id: MachineId | None = None) -> None:
        """Let a machine answer again, or all; what lives on one that was isolated may have a substitute by now."""
        for each in self.containers():
            is_there = each.is_live and self._is_unseen(each)
            if is_there and machine_id in (None, each.placement.machine_id if each.placement else None):
                self._ceilings[each.deployment_id] += 1
        self.world.heal(machine_id)

    def keep_free(self, machine_id: MachineId, *, is_cordoned: bool = False, drain: Drain = Drain.NONE) -> None:
        """Cordon or drain a machine as an admin would, or let it be used again."""
        if drain is not Drain.NONE:  # replacements start beside what they replace
            self._surges = {key: max(1, ceiling // SURGE_SHARE) for key, ceiling in self._ceilings.items()}
        self.write(lambda tx: tx.machines.set_placing(machine_id, is_cordoned=is_cordoned, drain=drain))

    def advance(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.do(self.clock.sleep(seconds))

    def set_wall_clock(self, seconds: float) -> None:
        """Set the wall clock alone, to so many seconds before or after the true time."""
        self.clock.skew = datetime.timedelta(seconds=seconds)

    # What a test asks.

    def is_wanted(self, deployment_id: DeploymentId) -> bool:
        """Tell whether a deployment is neither stopped nor deleted."""
        return self.deployment(deployment_id).is_wanted

    def deployment(self, deployment_id: DeploymentId) -> Deployment:
        """Return a deployment as the store has it."""
        deployment = self.read(lambda tx: tx.deployments.get(deployment_id))
        assert deployment is not None
        return deployment

    def versions(self, deployment_id: DeploymentId) -> Sequence[Version]:
        """Return what a deployment was ever asked to be, newest first."""
        return self.read(lambda tx: tx.deployments.versions(deployment_id))

    def containers(self, deployment_id: DeploymentId | None = None) -> list[Container]:
        """Return all containers, also unplaced and finished ones, oldest first."""

        def work(tx: Transaction) -> list[Container]:
            ids = [deployment_id] if deployment_id else list(self._ceilings)
            return [each for key in ids for each in tx.containers.of_deployment(key, finished_limit=100_000)]

        return self.read(work)

    def running(self, deployment_id: DeploymentId | None = None) -> list[Container]:
        """Return running containers that nobody asked to stop."""
        return [
            each
            for each in self.containers(deployment_id)
            if each.status is ContainerStatus.RUNNING and each.stop is None
        ]

    def events(self, container: Container | None = None) -> list[Event]:
        """Return the status events of a container, or of all, oldest first."""
        query = EventQuery(
            self._account, container_uuid=container.uuid if container else None, window=Window(0, 1_000_000)
        )
        return list(reversed(self.read(lambda tx: tx.events.find(query)).items))

    def explain(self, container_id: ContainerId) -> Explanation | None:
        """Return why a container has no machine, as the living control plane last saw it."""
        return self._plane.explanation(container_id) if self._plane else None

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Look into the store."""
        return self.do(self._store.read(work))

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Change the store, as a route of the API would."""
        return self.do(self._store.write(work))

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run the loop until one coroutine is done."""
        return self._loop.run_until_complete(coroutine)

    # What must be true.

    def check(self) -> None:
        """Assert the safety sentences: they hold at every instant."""
        holders = self.world.gpu_holders()
        assert all(len(each) == 1 for each in holders.values()), f"a GPU is used twice: {holders}"
        for container_id in self.world.started_ids:
            assert len(self.world.starts(container_id)) == 1, f"{container_id} was started twice"
        disks = [self.world.disk_of(container_id) for container_id in self.world.object_ids]
        assert len(set(disks)) == len(disks), f"two objects have the same files: {disks}"
        self.read(self._check_rows)

    def settle(self, *, seconds: float = SETTLE_SECONDS) -> None:
        """Wait until nothing changes any more; assert that what is wanted is what there is."""
        until, pause = self.clock.monotonic() + seconds, 0.5
        while why := self._unrest():
            assert self.clock.monotonic() < until, f"still restless after {seconds} s: {why}"
            self.advance(pause)
            pause = min(10.0, pause * 1.2)
            self.check()
        self._ceilings = {key: self.read(lambda tx, key=key: _wanted(tx, key)) for key in self._ceilings}  # type: ignore[misc]
        self._surges = {key: surge for key, surge in self._surges.items() if self.deployment(key).is_paused}
        self.check()

    # Inside.

    def _expect(self, deployment_id: DeploymentId, replica_num: int) -> None:
        self._ceilings[deployment_id] = max(self._ceilings[deployment_id], replica_num)
        self._asked[deployment_id] = max(self._asked[deployment_id], replica_num)
        if deployment_id in self._surges:
            self._expect_surge(deployment_id)

    def _expect_surge(self, deployment_id: DeploymentId) -> None:
        """Allow what a rollout may start beside what it replaces."""
        self._surges[deployment_id] = max(1, self._ceilings[deployment_id] // SURGE_SHARE)

    def _random_hex(self, digits: int) -> str:
        return f"{self._random.getrandbits(4 * digits):0{digits}x}"

    async def _prepare(self) -> None:
        account = await ensure_admin(self._store, self.clock, TOKEN)
        self._account = account.id

        def work(tx: Transaction) -> None:
            for machine in self.machines:
                tx.machines.put(machine)
            tx.images.put_base(LOCAL_IMAGE, "local", "local", self.clock.now())

        await self._store.write(work)

    async def _supervise(self) -> None:
        while True:
            self._life = Life(self._outstanding)
            living = asyncio.ensure_future(self._live(self._life))
            try:
                while not living.done() and not self._life.is_over:
                    await asyncio.wait((living,), timeout=0.05)
            finally:
                self._life.end()
                living.cancel()
                await asyncio.wait((living,))
                if not living.cancelled():
                    _only_crashes(living.exception())
            self.crashes += 1
            await self.clock.sleep(RESTART_SECONDS)

    async def _live(self, life: Life) -> None:
        storage = MortalStore(self._store, life)
        plane = ControlPlane(
            store=storage,
            engine=MortalEngine(FakeEngine(self.world), life, self.trouble),
            clock=self.clock,
            prober=_WorldProber(self.world),
            random_hex=self._random_hex,
            vault=self._vault,
            options=self._options,
        )
        self._plane = plane
        front = None if self._options.front is None else self._options.front.front
        watcher = Watcher(
            StoreFeed(storage, self.clock, front),
            MortalRegistry(self.registry, life, self.trouble),
            self.clock,
            publisher="harness#server",
            lease_seconds=LEASE_SECONDS,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(plane.run())
            group.create_task(watcher.run())

    async def _end(self) -> None:
        assert self._supervisor is not None
        await asyncio.wait([each for each in (self._supervisor, self._following) if each is not None])
        await self._api.aclose()
        await self.registry.aclose()
        await self._store.aclose()

    async def _call(self, method: str, path: str, body: dict[str, Any]) -> Any:
        response = await self._api.request(method, path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def _check_rows(self, tx: Transaction) -> None:
        machines = {machine.id: machine for machine in self.machines}
        for deployment_id in self._ceilings:
            deployment = tx.deployments.get(deployment_id)
            assert deployment is not None
            containers = tx.containers.of_deployment(deployment_id, finished_limit=100_000)
            live = [each for each in containers if each.is_live and not self._is_unseen(each)]
            # A scale-in takes one look of the loop to begin, so the ceiling is the most wanted since the last rest.
            ceiling = self._ceilings[deployment_id] + self._surges.get(deployment_id, 0)
            assert len(live) <= ceiling, f"{len(live)} live, never more than {ceiling} wanted"
            if deployment.spec.type is not DeploymentType.REPLICA_SET:
                completed, asked = tx.containers.completed(deployment_id), self._asked[deployment_id]
                assert completed <= asked, f"{completed} have completed, never more than {asked} were asked for"
                is_ended = deployment.status is DeploymentStatus.STOPPED and deployment_id not in self._stopped
                if is_ended and deployment.spec.type is DeploymentType.JOB:
                    assert completed >= deployment.spec.replica_num, f"it ended when {completed} had completed"
            versions = {each.name: each.spec for each in tx.deployments.versions(deployment_id)}
            for each in containers:
                if each.placement is not None:
                    wanted, machine = versions[each.version].requirements, machines[each.placement.machine_id]
                    assert each.placement.gpu_num == wanted.gpu_num
                    assert not wanted.gpu_names or machine.gpu_name in wanted.gpu_names
                    assert not wanted.data_centers or machine.data_center in wanted.data_centers
                    assert each.placement.cpu_num in wanted.cpu_num
                    assert each.placement.memory_bytes in wanted.memory_bytes
                self._check_events(tx, each)

    def _check_events(self, tx: Transaction, container: Container) -> None:
        query = EventQuery(self._account, container_uuid=container.uuid, window=Window(0, 100))
        events = [] if container.uuid is None else list(reversed(tx.events.find(query).items))
        words = [event.status for event in events if event.kind is EventKind.STATUS]
        assert words == sorted(set(words), key=lambda word: word.rank), f"illegal order: {words}"
        assert (words[-1] if words else None) == container.status, f"{words} but {container.status}"
        up = [word for word in words if word.rank <= ContainerStatus.RUNNING.rank]
        assert up == list(ContainerStatus)[: len(up)], f"a state was skipped on the way up: {words}"

    def _unrest(self) -> str:
        """Return what is still to be done, empty at rest. Kept remains of ended containers are rest."""
        rows = [each for each in self.containers() if not self._is_unseen(each)]
        running = {each.id for each in rows if each.status is ContainerStatus.RUNNING}
        really = {
            each
            for machine in self.machines
            if not self.world.is_isolated(machine.id)
            for each in self.world.running(machine.id)
        }
        if running != really:
            return f"rows say {len(running)} run, the engine runs {len(really)}"
        return self.read(self._unrest_of_rows) or self.do(self._unrest_of_sets())

    def _unrest_of_rows(self, tx: Transaction) -> str:
        now = self.clock.now()
        for machine_id, state in tx.machines.states().items():
            if self.world.answers(machine_id) and not state.is_reachable:
                return f"{machine_id} answers, and is still known as {state}"
        for deployment_id in self._ceilings:
            deployment = tx.deployments.get(deployment_id)
            assert deployment is not None
            history = history_needed(deployment.spec.replica_num)
            containers = tx.containers.of_deployment(deployment_id, finished_limit=history)
            plan = plan_of(tx, deployment, now)
            if not plan.is_empty or (plan.wake_at is not None and not _waits_for_room(deployment, plan)):
                return f"{deployment_id}: {plan.report.sentence}"
            leaving = outdated_of(tx, deployment, containers).values()
            if leaving and not plan.wants_room and Reason.HOST_DRAINED not in leaving:
                return f"{deployment_id}: some are outdated, and nobody does anything about it"
            is_job = deployment.spec.type is not DeploymentType.REPLICA_SET
            moving = (each for each in containers if each.status not in (None, ContainerStatus.SHUTDOWN))
            for each in moving:
                if self._is_unseen(each):
                    continue
                if each.status is not ContainerStatus.RUNNING or each.stop is not None or not each.is_ready:
                    return f"{each.uuid} is {each.status}, ready: {each.is_ready}"
                if is_job and self.world.will_end(each.id):
                    return f"{each.uuid} of a Job has not come to its end"
        placeable = sum(isinstance(each, Placed) for each in place(*load_requests(tx, now, has_images=True)).outcomes)
        return f"{placeable} unplaced containers would fit" if placeable else ""

    def _is_unseen(self, container: Container) -> bool:
        """Tell whether a container is on a host that is off the network."""
        return container.placement is not None and self.world.is_isolated(container.placement.machine_id)

    async def _unrest_of_sets(self) -> str:
        for deployment_id in self._ceilings:
            for key, endpoints in (await self._feed.service(deployment_id)).endpoints.items():
                published = await self.registry.get(key)
                # A deployment that ended before discovery ever saw it has no set, and needs none.
                if (() if published is None else published.endpoints) != endpoints:
                    return f"the registry's set of {key} is behind"
        return ""


class _WorldProber:
    """Ready means: the world runs something at this address that is not deaf."""

    def __init__(self, world: FakeWorld) -> None:
        self._world = world

    async def probe(self, address: Address, check: HealthCheck) -> Verdict:
        """Look into the world."""
        await asyncio.sleep(0)
        seen = (self._world.look(container_id) for container_id in self._world.running())
        is_heard = any(
            each is not None
            and each.addresses.get(check.port) == address
            and not self._is_deaf(each.ref.container_id)
            and not self._world.is_isolated(each.ref.machine_id)
            for each in seen
        )
        return Verdict.PASSED if is_heard else Verdict.FAILED

    def _is_deaf(self, container_id: ContainerId) -> bool:
        run = self._world.run_of(container_id)
        return run is not None and "deaf" in run.cmd


def _wanted(tx: Transaction, deployment_id: DeploymentId) -> int:
    deployment = tx.deployments.get(deployment_id)
    assert deployment is not None
    if not deployment.is_wanted:
        return 0
    spec = deployment.spec
    return spec.replica_num if spec.type is DeploymentType.REPLICA_SET else min(spec.replica_num, spec.parallelism_num)


def _waits_for_room(deployment: Deployment, plan: Plan) -> bool:
    """Tell whether there is nothing to do but to look for room again and again, which is as still as it gets."""
    is_judged = deployment.rollout is RolloutState.PROGRESSING and deployment.stable_version is not None
    return plan.wants_room and not is_judged


def _only_crashes(error: BaseException | None) -> None:
    """Raise whatever ended a life that was no crash: it is a bug."""
    if isinstance(error, BaseExceptionGroup):
        _, error = error.split(Crash)
    if error is not None and not isinstance(error, Crash):
        raise error
