"""The control plane against everything that can happen to it, in any order.

Rules are what users, hosts and misfortune do. After each, the safety sentences of ``Harness.check`` must hold: no GPU
claimed twice, never more live containers than wanted (and as a rollout may have beside them), nothing placed against
its ranges, nothing started twice, no Job completes more than was asked, status and event log agree. At the end all
faults are healed and the world must come to rest with what is wanted running and an empty next plan.
"""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from muster.model.container import ContainerStatus
from muster.model.ids import DeploymentId
from muster.model.machine import Drain
from muster.testing.faults import CrashPoint
from muster.testing.harness import TERMS, Harness

REPLICAS = st.integers(0, 6)
MODELS = st.sampled_from([[], ["RTX 4090"], ["RTX 3090"], ["A100"]])
DATA_CENTERS = st.sampled_from([[], ["lab-a"], ["lab-b"], ["lab-a", "lab-b"]])
COMMANDS = st.sampled_from(["serve", "serve", "sleep 3; exit 1", "exit 0", "exit 127", "trap '' TERM; sleep infinity"])
EDITS = st.sampled_from(["serve", "serve better", "serve best", "deaf", "sleep 3; exit 1"])
WORK = st.sampled_from(["sleep 3", "sleep 20; exit 1", "exit 0", "serve"])


class ControlPlaneMachine(RuleBasedStateMachine):
    """See the module's text."""

    deployments: Bundle[DeploymentId] = Bundle("deployments")
    jobs: Bundle[DeploymentId] = Bundle("jobs")

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.harness = Harness(Path(self.folder.name), seed=seed)
        self.harness.__enter__()
        self.created: set[DeploymentId] = set()

    @rule(
        target=deployments,
        replica_num=REPLICAS,
        gpu_num=st.sampled_from([1, 1, 2, 4]),
        models=MODELS,
        data_centers=DATA_CENTERS,
        cmd=COMMANDS,
        memory=st.sampled_from([1, 65, 256]),
        reuse=st.booleans(),
    )
    def create(  # noqa: PLR0917  hypothesis passes them by name
        self,
        replica_num: int,
        gpu_num: int,
        models: list[str],
        data_centers: list[str],
        cmd: str,
        memory: int,
        reuse: bool,
    ) -> DeploymentId:
        template = {"gpu_name_set": models, "dc_list": data_centers, "memory_size_from": memory}
        created = self.harness.create(
            replica_num=replica_num,
            gpu_num=gpu_num,
            cmd=cmd,
            template=template,
            reuse_container=reuse,
            service={"ready_within_seconds": 20},
        )
        self.created.add(created)
        return created

    @rule(target=jobs, replica_num=st.integers(1, 5), parallelism_num=st.integers(1, 3), cmd=WORK)
    def create_a_job(self, replica_num: int, parallelism_num: int, cmd: str) -> DeploymentId:
        return self.harness.create(
            deployment_type="Job", replica_num=replica_num, parallelism_num=parallelism_num, cmd=cmd
        )

    @rule(target=jobs, cmd=WORK)
    def create_a_container(self, cmd: str) -> DeploymentId:
        return self.harness.create(deployment_type="Container", cmd=cmd)

    @rule(job=consumes(jobs), is_deleted=st.booleans())
    def end_a_job(self, job: DeploymentId, is_deleted: bool) -> None:
        (self.harness.delete if is_deleted else self.harness.stop)(job)

    @rule(job=jobs, parallelism_num=st.integers(1, 3), cmd=WORK)
    def edit_a_job(self, job: DeploymentId, parallelism_num: int, cmd: str) -> None:
        if self.harness.is_wanted(job):
            self.harness.edit(job, cmd=cmd, parallelism_num=parallelism_num)

    @rule(deployment=deployments, cmd=EDITS)
    def edit(self, deployment: DeploymentId, cmd: str) -> None:
        self.harness.edit(deployment, cmd=cmd)

    @rule(deployment=deployments, models=MODELS, replica_num=REPLICAS)
    def edit_where_and_how_many(self, deployment: DeploymentId, models: list[str], replica_num: int) -> None:
        self.harness.edit(deployment, gpu_name_set=models, replica_num=replica_num)

    @rule(deployment=deployments)
    def pause(self, deployment: DeploymentId) -> None:
        self.harness.pause(deployment)

    @rule(deployment=deployments)
    def resume(self, deployment: DeploymentId) -> None:
        self.harness.resume(deployment)

    @rule(deployment=deployments, is_named=st.booleans())
    def undo(self, deployment: DeploymentId, is_named: bool) -> None:
        """Back to the oldest version, or to the last that was good: an edit may come before any was."""
        present = self.harness.deployment(deployment)
        others = [each for each in self.harness.versions(deployment) if each.name != present.version]
        if is_named and others:
            self.harness.undo(deployment, others[-1].name)
        elif any(each.good_at is not None for each in others):
            self.harness.undo(deployment)

    @rule(deployment=deployments, replica_num=REPLICAS)
    def scale(self, deployment: DeploymentId, replica_num: int) -> None:
        self.harness.scale(deployment, replica_num)

    @rule(job=jobs, which=st.integers(0, 5))
    def stop_one_of_a_job(self, job: DeploymentId, which: int) -> None:
        self.stop_one(job, which, decrease=False)

    @rule(deployment=deployments, which=st.integers(0, 5), decrease=st.booleans())
    def stop_one(self, deployment: DeploymentId, which: int, decrease: bool) -> None:
        placed = [each for each in self.harness.containers(deployment) if each.is_live and each.uuid]
        if placed:
            self.harness.stop_container(placed[which % len(placed)], decrease=decrease)

    @rule(deployment=consumes(deployments))
    def stop_deployment(self, deployment: DeploymentId) -> None:
        self.harness.stop(deployment)

    @rule(deployment=consumes(deployments))
    def delete(self, deployment: DeploymentId) -> None:
        self.harness.delete(deployment)

    @rule(which=st.integers(0, 20), code=st.sampled_from([0, 1, 137]))
    def a_command_ends(self, which: int, code: int) -> None:
        running = sorted(self.harness.world.running())
        if running:
            self.harness.world.finish(running[which % len(running)], code)

    @rule(which=st.integers(0, 20))
    def an_object_vanishes(self, which: int) -> None:
        running = sorted(self.harness.world.running())
        if running:
            self.harness.world.vanish(running[which % len(running)])

    @rule(which=st.integers(0, 2))
    def a_machine_is_cut_off(self, which: int) -> None:
        self.harness.world.cut(self.harness.machines[which].id)

    @rule(which=st.integers(0, 2))
    def a_machine_restarts(self, which: int) -> None:
        self.harness.world.reboot(self.harness.machines[which].id)

    @rule(which=st.integers(0, 2), is_gone=st.booleans())
    def a_host_leaves_the_network(self, which: int, is_gone: bool) -> None:
        world = self.harness.world
        (world.destroy if is_gone else world.isolate)(self.harness.machines[which].id)

    @rule()
    def machines_answer_again(self) -> None:
        self.harness.heal()

    @rule(which=st.integers(0, 2))
    def one_machine_answers_again(self, which: int) -> None:
        self.harness.heal(self.harness.machines[which].id)

    @rule(which=st.integers(0, 2), is_cordoned=st.booleans(), drain=st.sampled_from(Drain))
    def the_operator_keeps_a_machine_free_or_not(self, which: int, is_cordoned: bool, drain: Drain) -> None:
        self.harness.keep_free(self.harness.machines[which].id, is_cordoned=is_cordoned, drain=drain)

    @rule(are_lost=st.booleans())
    def hints_are_lost_or_not(self, are_lost: bool) -> None:
        self.harness.world.are_hints_lost = are_lost

    @rule(answers=st.integers(1, 5))
    def answers_of_the_engine_are_lost(self, answers: int) -> None:
        self.harness.trouble.engine_answers_lost = answers

    @rule(answers=st.integers(1, 5))
    def answers_of_the_registry_are_lost(self, answers: int) -> None:
        self.harness.trouble.registry_answers_lost = answers

    @rule(seconds=st.sampled_from([0.0, 0.2, 5.0]))
    def the_engine_takes_its_time(self, seconds: float) -> None:
        self.harness.trouble.engine_seconds = seconds

    @rule(is_rejected=st.booleans())
    def the_image_is_refused_or_not(self, is_rejected: bool) -> None:
        (self.harness.world.reject_image if is_rejected else self.harness.world.accept_image)("local")

    @rule()
    def the_server_is_killed(self) -> None:
        self.harness.crash()

    @rule(call=st.integers(1, 30), is_after=st.booleans())
    def the_server_is_killed_at_a_call_to_come(self, call: int, is_after: bool) -> None:
        self.harness.crash(CrashPoint(call, is_after))

    @rule(seconds=st.sampled_from([0.01, 0.5, 3.0, 40.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.harness.advance(seconds)

    @rule(minutes=st.integers(-10, 10))
    def the_wall_clock_is_set(self, minutes: int) -> None:
        self.harness.set_wall_clock(minutes * 60)

    @precondition(lambda self: hasattr(self, "harness"))
    @invariant()
    def safety(self) -> None:
        self.harness.check()

    def teardown(self) -> None:
        if not hasattr(self, "harness"):
            return
        try:
            self._come_to_rest()
        finally:
            self.harness.__exit__(None, None, None)
            self.folder.cleanup()

    def _come_to_rest(self) -> None:
        harness = self.harness
        harness.heal()
        for machine in harness.machines:
            harness.keep_free(machine.id)
        harness.world.accept_image("local")
        harness.world.are_hints_lost = False
        harness.trouble.heal()
        harness.set_wall_clock(0)
        for deployment in self.created:
            if harness.is_wanted(deployment):
                self._let_rest(deployment)
        harness.settle()
        for container in harness.containers():
            assert container.status in (None, ContainerStatus.RUNNING, ContainerStatus.SHUTDOWN)
        # what is pooled is kept a quarter of an hour, other remains ten minutes; the clock may have been ten ahead
        harness.advance(TERMS.pool_seconds + 1300)
        assert harness.world.object_count == len(harness.world.running()), "remains were not removed"

    def _let_rest(self, deployment_id: DeploymentId) -> None:
        """Let a rollout go on; delete what neither serves nor has anything to fall back to, it never rests."""
        deployment = self.harness.deployment(deployment_id)
        if deployment.is_paused:
            self.harness.resume(deployment_id)
            deployment = self.harness.deployment(deployment_id)
        cmds = {each.name: each.spec.cmd for each in self.harness.versions(deployment_id)}
        last = cmds[deployment.target_version]
        if _is_bad(last) and deployment.stable_version is not None:
            last = cmds[deployment.stable_version]
        if _is_bad(last):
            self.harness.delete(deployment_id)


def _is_bad(cmd: str) -> bool:
    return "exit" in cmd or "deaf" in cmd


ControlPlaneMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)
TestControlPlane = pytest.mark.timeout(600)(pytest.mark.slow(ControlPlaneMachine.TestCase))
