"""The control plane against everything that can happen to it, in any order.

Rules are what users, hosts and misfortune do. After each, the safety sentences of ``Harness.check`` must hold: no GPU
claimed twice, never more live containers than wanted, nothing placed against its ranges, nothing started twice, status
and event log agree. At the end all faults are healed and the world must come to rest with what is wanted running and
an empty next plan.
"""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from muster.model.container import ContainerStatus
from muster.model.ids import DeploymentId
from muster.testing.faults import CrashPoint
from muster.testing.harness import Harness

REPLICAS = st.integers(0, 6)
MODELS = st.sampled_from([[], ["RTX 4090"], ["RTX 3090"], ["A100"]])
DATA_CENTERS = st.sampled_from([[], ["lab-a"], ["lab-b"], ["lab-a", "lab-b"]])
COMMANDS = st.sampled_from(["serve", "serve", "sleep 3; exit 1", "exit 0", "exit 127", "trap '' TERM; sleep infinity"])


class ControlPlaneMachine(RuleBasedStateMachine):
    """See the module's text."""

    deployments: Bundle[DeploymentId] = Bundle("deployments")

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.harness = Harness(Path(self.folder.name), seed=seed)
        self.harness.__enter__()
        self.mortal: set[DeploymentId] = set()

    @rule(
        target=deployments,
        replica_num=REPLICAS,
        gpu_num=st.sampled_from([1, 1, 2, 4]),
        models=MODELS,
        data_centers=DATA_CENTERS,
        cmd=COMMANDS,
        memory=st.sampled_from([1, 65, 256]),
    )
    def create(  # noqa: PLR0917  hypothesis passes them by name
        self, replica_num: int, gpu_num: int, models: list[str], data_centers: list[str], cmd: str, memory: int
    ) -> DeploymentId:
        template = {"gpu_name_set": models, "dc_list": data_centers, "memory_size_from": memory}
        created = self.harness.create(replica_num=replica_num, gpu_num=gpu_num, cmd=cmd, template=template)
        if "exit" in cmd:
            self.mortal.add(created)
        return created

    @rule(deployment=deployments, replica_num=REPLICAS)
    def scale(self, deployment: DeploymentId, replica_num: int) -> None:
        self.harness.scale(deployment, replica_num)

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

    @rule()
    def machines_answer_again(self) -> None:
        self.harness.world.heal()

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

    @rule(seconds=st.sampled_from([0.01, 0.5, 3.0, 40.0]))
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
        harness.world.heal()
        harness.world.accept_image("local")
        harness.world.are_hints_lost = False
        harness.trouble.heal()
        harness.set_wall_clock(0)
        for deployment in self.mortal:  # what always dies never rests
            if harness.is_wanted(deployment):
                harness.delete(deployment)
        harness.settle()
        for container in harness.containers():
            assert container.status in (None, ContainerStatus.RUNNING, ContainerStatus.SHUTDOWN)
        harness.advance(1300)  # remains are kept ten minutes, and the clock may have been ten minutes ahead
        assert harness.world.object_count == len(harness.world.running()), "remains were not removed"


ControlPlaneMachine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)
TestControlPlane = pytest.mark.timeout(600)(pytest.mark.slow(ControlPlaneMachine.TestCase))
