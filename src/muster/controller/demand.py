"""What the scheduler is asked: the request of every container that waits for a machine, and what there is to give.

Read in one transaction, decided elsewhere: the placements loop commits what the scheduler answers, the deployments loop
asks the same with a running container thought away, to see whether its end would help anybody. Both must see the same
demand, or one would promise room that the other does not use; so it is put together here only.

A container asks by the specification of its own version. All of a deployment and version share one request and the very
same sets, which the scheduler serves fastest.
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from muster.model.blacklist import BlacklistEntry
from muster.model.container import Container, Reason
from muster.model.deployment import Deployment, DeploymentSpec, ImagePull, ReuseScope
from muster.model.ids import AccountId, DeploymentId, MachineId
from muster.model.image import Image
from muster.model.machine import Drain, MachineState
from muster.model.reference import is_saved
from muster.planner.backoff import machine_to_avoid, young_deaths
from muster.scheduler.inventory import Inventory
from muster.scheduler.place import Request
from muster.scheduler.reuse import Reusable
from muster.store.port import Transaction
from muster.store.specs import spec_of

_FAILURES = frozenset({Reason.ERROR, Reason.OOM_KILLED})
_NONE: frozenset[MachineId] = frozenset()


@dataclass(frozen=True, slots=True)
class Bans:
    """Which machines get nothing new: those that cannot be used, those that are not to be, and those of each account.

    ``until`` is when the first entry of a blacklist ends; ``None``: there is none.
    """

    unavailable: frozenset[MachineId]
    cordoned: frozenset[MachineId]
    blacklists: Mapping[AccountId, frozenset[MachineId]]
    until: datetime.datetime | None

    @classmethod
    def of(cls, states: Mapping[MachineId, MachineState], entries: Iterable[BlacklistEntry]) -> "Bans":
        """Sort what is thought of machines by whom it concerns."""
        blacklists: dict[AccountId, set[MachineId]] = {}
        until: datetime.datetime | None = None
        for entry in entries:
            blacklists.setdefault(entry.account_id, set()).add(entry.machine_id)
            until = entry.expires_at if until is None else min(until, entry.expires_at)
        return cls(
            unavailable=frozenset(key for key, state in states.items() if not state.is_reachable),
            cordoned=frozenset(
                key for key, state in states.items() if state.is_cordoned or state.drain is not Drain.NONE
            ),
            blacklists={account_id: frozenset(banned) for account_id, banned in blacklists.items()},
            until=until,
        )


def load_bans(tx: Transaction, now: datetime.datetime) -> Bans:
    """Return which machines get nothing new now."""
    return Bans.of(tx.machines.states(), tx.blacklist.in_force(now))


def load_requests(
    tx: Transaction, now: datetime.datetime, *, has_images: bool, bans: Bans | None = None
) -> tuple[list[Request], Inventory]:
    """Return who waits, oldest first, and what there is.

    ``has_images``: whether the engine fetches images, so that it matters who holds one. ``bans`` is for whoever has
    loaded them already.
    """
    waiting = tx.containers.unplaced()
    pooled = [each for each in tx.containers.pooled() if each.discard_at is not None and now < each.discard_at]
    inventory = Inventory.of(tx.machines.offered(), tx.containers.claims(), _wanted_by(pooled))
    bans = bans or load_bans(tx, now)
    patterns: dict[tuple[DeploymentId, str], Request] = {}
    requests = []
    for container in waiting:
        key = (container.deployment_id, container.version)
        if key not in patterns:
            patterns[key] = _pattern(tx, container, pooled, bans, now, has_images=has_images)
        requests.append(replace(patterns[key], container_id=container.id))
    return requests, inventory


def _pattern(
    tx: Transaction,
    container: Container,
    pooled: Sequence[Container],
    bans: Bans,
    now: datetime.datetime,
    *,
    has_images: bool,
) -> Request:
    """Return what all waiting containers of a version of a deployment ask for.

    What one of them could not take over is back in the pool, for others: it is not tried for ever, a fresh start
    may do.
    """
    deployment = tx.deployments.get(container.deployment_id)
    assert deployment is not None  # rows of deployments are never deleted
    spec = spec_of(tx, container, deployment)
    image = tx.images.get(deployment.account_id, spec.image)
    history = tx.containers.of_deployment(deployment.id)
    tried = {each.reused_from for each in young_deaths(history, deployment.edited_at, now)}
    holders = None
    if has_images:
        holders = frozenset() if image is None else tx.held_images.holders(image.reference)
    return Request(
        container.id,
        spec.requirements,
        avoid=machine_to_avoid(history, deployment.edited_at, now),
        blacklist=bans.blacklists.get(deployment.account_id, _NONE),
        reusable=_reusable(deployment, spec, image, [each for each in pooled if each.uuid not in tried]),
        image_holders=holders,
        is_image_saved=image is not None and is_saved(image.reference),
        unavailable=bans.unavailable,
        cordoned=bans.cordoned,
    )


def _reusable(
    deployment: Deployment, spec: DeploymentSpec, image: Image | None, pooled: Iterable[Container]
) -> tuple[Reusable, ...]:
    """Return which containers of the pool a deployment's new ones may take over.

    Of the same account and made from the same image: the same name, still bound to the same reference, and where the
    newest of it is asked for, also the same digest.
    """
    if not spec.reuse_container or image is None:
        return ()
    return tuple(
        Reusable(
            uuid=each.uuid,
            machine_id=each.placement.machine_id,
            gpu_indices=each.placement.gpu_indices,
            is_same_deployment=each.deployment_id == deployment.id,
            ended_well=each.reason not in _FAILURES,
            stopped_at=each.stopped_at,
        )
        for each in pooled
        if each.account_id == deployment.account_id
        and (each.image, each.image_reference) == (image.uuid, image.reference)
        and (spec.image_pull is ImagePull.MISSING or each.image_digest == image.digest)
        and (spec.reuse_scope is ReuseScope.ALL or each.deployment_id == deployment.id)
        and each.uuid is not None
        and each.placement is not None
        and each.stopped_at is not None
    )


def _wanted_by(pooled: Iterable[Container]) -> Mapping[MachineId, frozenset[int]]:
    wanted: dict[MachineId, set[int]] = {}
    for each in pooled:
        if each.placement is not None:
            wanted.setdefault(each.placement.machine_id, set()).update(each.placement.gpu_indices)
    return {machine_id: frozenset(indices) for machine_id, indices in wanted.items()}
