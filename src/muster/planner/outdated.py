"""Which live containers are to be replaced, and why: those of another version, and those whose machine is drained.

In: a deployment, its live containers, the versions that they were made from, the machines that they are on. Out: a
reason for each that has to go; ``replica_set`` decides when. The target is the version that is wanted, or the last
good one while a rollout has failed or is paused.

A container is held against the target by content, not by name: one whose version differs in nothing that it runs, and
whose machine still meets the target's ranges, stays as it is. Ranges are looked at only where the two versions differ
in them: when an operator declares a machine anew (a price, say), nothing that runs there is touched.

A Job's containers are work in progress, which is not thrown away for a new version: those that have no machine yet are
made anew, the others come to their end.
"""

from collections.abc import Iterable, Mapping

from muster.model.container import Container, Reason
from muster.model.deployment import Deployment, DeploymentType, Requirements, Version, needs_new_container
from muster.model.ids import ContainerId, MachineId
from muster.model.machine import Drain, Machine


def outdated(
    deployment: Deployment,
    containers: Iterable[Container],
    *,
    versions: Mapping[str, Version],
    machines: Mapping[MachineId, Machine],
    drains: Mapping[MachineId, Drain],
) -> Mapping[ContainerId, Reason]:
    """Return what is to be replaced. ``versions`` holds those of the containers and the target, by name."""
    target = versions[deployment.target_version]
    keeps_work = deployment.spec.type is not DeploymentType.REPLICA_SET
    found: dict[ContainerId, Reason] = {}
    for container in containers:
        if not container.is_live:
            continue
        drain = Drain.NONE
        if container.placement is not None:
            drain = drains.get(container.placement.machine_id, Drain.NONE)
        if drain is Drain.NOW or (drain is Drain.GENTLE and not keeps_work):
            found[container.id] = Reason.HOST_DRAINED
        elif deployment.is_paused or (keeps_work and container.placement is not None):
            continue
        elif _is_of_another(container, versions, target, machines):
            is_of_failed = bool(deployment.failure) and container.version == deployment.version
            found[container.id] = Reason.ROLLED_BACK if is_of_failed else Reason.REPLACED
    return found


def _is_of_another(
    container: Container, versions: Mapping[str, Version], target: Version, machines: Mapping[MachineId, Machine]
) -> bool:
    if container.version == target.name:
        return False
    own, placement = versions[container.version], container.placement
    # An unplaced one is replaced for nothing, and would look for a machine by the wrong ranges.
    if placement is None or needs_new_container(own.spec, target.spec):
        return True
    if any(own.number < each.number <= target.number for each in versions.values() if each.replaces_all):
        return True
    wanted = target.spec.requirements
    return own.spec.requirements != wanted and not _meets(container, wanted, machines)


def _meets(container: Container, wanted: Requirements, machines: Mapping[MachineId, Machine]) -> bool:
    placement = container.placement
    assert placement is not None
    machine = machines.get(placement.machine_id)
    return (
        (not wanted.gpu_names or placement.gpu_name in wanted.gpu_names)
        and (not wanted.data_centers or placement.data_center in wanted.data_centers)
        and placement.cpu_num in wanted.cpu_num
        and placement.memory_bytes in wanted.memory_bytes
        and placement.price_milliyuan in wanted.price_milliyuan
        and (machine is None or machine.cuda in wanted.cuda)
    )
