"""Who is to be replaced: by content and machine, not by the name of a version."""

from collections.abc import Mapping
from dataclasses import replace

from muster.model.container import Container, ContainerStatus, Placement, Reason
from muster.model.deployment import Deployment, DeploymentSpec, DeploymentType, Requirements, ServiceSpec, Version
from muster.model.ids import ContainerId, MachineId
from muster.model.machine import Drain, Machine
from muster.model.quantity import GIB, Range
from muster.planner.outdated import outdated
from tests.unit.planner.worlds import MACHINE, at, container, deployment, edited, ready, stop

BASE = deployment().spec
HERE = Machine(MACHINE, "lab-a", "RTX 4090", 4, 64, 256 * GIB, 128, 1980)
REPLACED, ROLLED_BACK, HOST_DRAINED = Reason.REPLACED, Reason.ROLLED_BACK, Reason.HOST_DRAINED


def versions(*specs: DeploymentSpec, replacing: int = 0) -> Mapping[str, Version]:
    """v1, v2, … of these specifications; the ``replacing``-th was named by its maker."""
    made = (
        Version(deployment().id, f"v{n}", n, spec, at(n), replaces_all=n == replacing)
        for n, spec in enumerate(specs, 1)
    )
    return {each.name: each for each in made}


def found(
    wanted: Deployment,
    containers: list[Container],
    known: Mapping[str, Version],
    *,
    drains: Mapping[MachineId, Drain] | None = None,
    machine: Machine | None = HERE,
) -> Mapping[ContainerId, Reason]:
    machines = {} if machine is None else {machine.id: machine}
    return outdated(wanted, containers, versions=known, machines=machines, drains=drains or {})


def spec(**changes: object) -> DeploymentSpec:
    return replace(BASE, **changes)  # type: ignore[arg-type]


def ranges(**changes: object) -> DeploymentSpec:
    return spec(requirements=Requirements(**changes))  # type: ignore[arg-type]


def test_what_runs_something_else_is_replaced() -> None:
    old = ready(1)
    for other in (spec(cmd="other"), spec(env={"A": "1"}), spec(image="i-2"), ranges(gpu_num=2)):
        assert found(edited(1), [old], versions(BASE, other)) == {old.id: REPLACED}


def test_what_runs_the_same_stays_whatever_its_version_is_called() -> None:
    for same in (spec(replica_num=5), spec(cmd_before_shutdown="sync"), spec(service=ServiceSpec(concurrency=3))):
        assert not found(edited(1), [ready(1)], versions(BASE, same))


def test_an_edit_back_to_the_old_content_keeps_the_old_containers() -> None:
    new = ready(2, "v2")
    known = versions(BASE, spec(cmd="other"), BASE)
    assert found(edited(2, version="v3"), [ready(1), new], known) == {new.id: REPLACED}


def test_undo_keeps_what_is_of_the_old_version() -> None:
    new = ready(2, "v2")
    assert found(edited(2, version="v1"), [ready(1), new], versions(BASE, spec(cmd="other"))) == {new.id: REPLACED}


def test_what_meets_new_ranges_stays_and_what_does_not_is_replaced() -> None:
    old = ready(1)
    for fits in (
        ranges(gpu_names=frozenset({"RTX 4090", "A100"})),
        ranges(data_centers=frozenset({"lab-a"})),
        ranges(cuda=Range(118, 128)),
        ranges(cpu_num=Range(1, 16)),
        ranges(price_milliyuan=Range(0, 1980)),
    ):
        assert not found(edited(1), [old], versions(BASE, fits))
    for fails in (
        ranges(gpu_names=frozenset({"A100"})),
        ranges(data_centers=frozenset({"lab-b"})),
        ranges(cuda=Range(129, None)),
        ranges(cpu_num=Range(17, None)),
        ranges(memory_bytes=Range(2**37, None)),
        ranges(price_milliyuan=Range(0, 1979)),
    ):
        assert found(edited(1), [old], versions(BASE, fails)) == {old.id: REPLACED}


def test_a_machine_that_is_declared_anew_changes_nothing_for_what_runs_there() -> None:
    narrow = ranges(cuda=Range(128, None))
    older = replace(HERE, cuda=118)
    assert not found(edited(1), [ready(1)], versions(narrow, replace(narrow, replica_num=3)), machine=older)
    assert not found(edited(1), [ready(1)], versions(BASE, narrow), machine=None)


def test_what_has_no_machine_yet_is_replaced_by_one_that_looks_by_the_new_ranges() -> None:
    waiting = container(1, None)
    assert found(edited(1), [waiting], versions(BASE, ranges(cpu_num=Range(1, None)))) == {waiting.id: REPLACED}


def test_a_version_that_its_maker_named_replaces_all() -> None:
    old = ready(1)
    assert found(edited(1), [old], versions(BASE, BASE, replacing=2)) == {old.id: REPLACED}
    assert not found(edited(1), [ready(1, "v2")], versions(BASE, BASE, replacing=2))
    # One that came in between counts as well; one that came later does not.
    assert found(edited(1, version="v3"), [old], versions(BASE, BASE, BASE, replacing=2))
    assert not found(edited(1), [old], versions(BASE, BASE, BASE, replacing=3))


def test_what_is_of_a_version_that_failed_goes_back() -> None:
    failed = edited(3, failure="it never became ready", version="v3")
    known = versions(BASE, spec(cmd="two"), spec(cmd="three"))
    of_two, of_three = ready(2, "v2"), ready(3, "v3")
    assert found(failed, [ready(1), of_two, of_three], known) == {of_two.id: REPLACED, of_three.id: ROLLED_BACK}


def test_while_paused_only_drained_hosts_count() -> None:
    known = versions(BASE, spec(cmd="other"))
    old, new = ready(1), ready(2, "v2")
    paused = edited(2, is_paused=True)
    assert not found(paused, [old, new], known)
    assert found(paused, [old], known, drains={MACHINE: Drain.GENTLE}) == {old.id: HOST_DRAINED}


def test_what_is_ending_or_over_is_not_replaced() -> None:
    known = versions(BASE, spec(cmd="other"))
    ending = container(1, ContainerStatus.SHUTTING_DOWN, stop=stop())
    assert not found(edited(1), [ending, container(2, ContainerStatus.SHUTDOWN)], known, drains={MACHINE: Drain.NOW})


def test_containers_of_a_drained_host_are_replaced_and_others_not() -> None:
    here, elsewhere = (
        ready(1),
        ready(2, placement=Placement(MachineId("b" * 10), "lab-a", "RTX 4090", (0,), 16, 2**36, 1980)),
    )
    for drain in (Drain.GENTLE, Drain.NOW):
        assert found(deployment(2), [here, elsewhere], versions(BASE), drains={MACHINE: drain}) == {
            here.id: HOST_DRAINED
        }
    assert not found(deployment(2), [here, container(3, None)], versions(BASE), drains={MACHINE: Drain.NONE})


def test_work_in_progress_is_ended_only_by_a_host_that_is_drained_now() -> None:
    for kind in (DeploymentType.JOB, DeploymentType.CONTAINER):
        job = edited(2, stable_version=None, spec=spec(type=kind))
        known = versions(spec(type=kind), spec(type=kind, cmd="other"))
        working, waiting = ready(1), container(2, None)
        assert found(job, [working, waiting], known) == {waiting.id: REPLACED}
        assert not found(job, [working], known, drains={MACHINE: Drain.GENTLE})
        assert found(job, [working], known, drains={MACHINE: Drain.NOW}) == {working.id: HOST_DRAINED}
