"""Edits of a deployment: what a request changes of the specification, and the version that comes of it.

The request is laid over the specification in its wire form and read like a create body, so that aliases, units and
checks are the same for both. Fields that containers need not be replaced for change the present version; any other
makes a new one, named by the caller or ``v2``, ``v3``, …. Each edit begins the count of young deaths anew and gives a
version that had failed another try.

The last good version is kept as what to fall back to only while something is ready: where nothing serves, there is
nothing to protect, and a command that is tried out (``sleep infinity``) is left in peace.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from muster.api import convert, schemas
from muster.api.quota import check_quota
from muster.api.rollout_schemas import EditDeployment
from muster.errors import Conflict, InvalidSpec, NotFound
from muster.model.deployment import (
    PORTS,
    Deployment,
    DeploymentSpec,
    DeploymentType,
    RolloutState,
    needs_new_container,
    with_present,
)
from muster.store.port import Transaction


@dataclass(frozen=True, slots=True)
class Edited:
    """A deployment as it is wanted now, and the fields that made the difference."""

    deployment: Deployment
    changed: tuple[str, ...]
    is_new_version: bool


def overlay(spec: DeploymentSpec, body: EditDeployment) -> DeploymentSpec:
    """Return the specification with what the request gives; raises ``InvalidSpec`` for what cannot be."""
    given = body.model_dump(exclude_unset=True)
    if given.get("name", spec.name) != spec.name:
        raise InvalidSpec("name", f"cannot be changed (it is {spec.name!r}): clients find the service by it")
    if given.get("deployment_type", spec.type.value) != spec.type.value:
        raise InvalidSpec("deployment_type", f"cannot be changed (it is {spec.type.value})")
    template, service = given.get("container_template", {}), given.get("service", {})
    wire = convert.spec_to_wire(spec)
    for name in ("replica_num", "parallelism_num"):
        if name in given:
            wire[name] = given[name]
    for name in ("reuse_container", "reuse_container_scope"):
        value = given.get(name, template.get(name))
        if value not in (None, ""):
            wire[name] = value
    for port in PORTS:
        own, both = f"service_{port}_port_protocol", "service_port_protocol"
        said = (given.get(own), template.get(own), given.get(both), template.get(both))
        wire[own] = next(filter(None, said), wire[own])
    _lay_template(wire["container_template"], template)
    _lay_service(wire["service"], service)
    try:
        return convert.spec_from(schemas.CreateDeployment.model_validate(wire))
    except ValidationError as error:  # of a field that is not given: it was written when more was allowed
        problem = error.errors()[0]
        raise InvalidSpec(".".join(map(str, problem["loc"])), f"as it is now {problem['msg']}; give it anew") from error


def edit(
    tx: Transaction, deployment: Deployment, spec: DeploymentSpec, version: str | None, now: datetime.datetime
) -> Edited:
    """Want another specification; the same again changes nothing. Raises ``Conflict`` where that cannot be."""
    if not deployment.is_wanted:
        raise Conflict("部署已停止，无法修改 (the deployment is stopped; create another one)")
    old = deployment.spec
    changed = _changed(convert.spec_to_wire(old), convert.spec_to_wire(spec))
    if not changed and version in (None, deployment.version):
        return Edited(deployment, (), is_new_version=False)
    if version is not None and tx.deployments.version(deployment.id, version) is not None:
        raise Conflict(f"版本 {version} 已存在 (the version exists: choose another name, or undo to it)")
    check_quota(tx, deployment.account_id, deployment.id, spec)
    is_new = version is not None or needs_new_container(old, spec) or old.requirements != spec.requirements
    wanted = replace(deployment, spec=spec, failure="", edited_at=now, updated_at=now)
    if is_new:
        name = version or _next_name(tx, deployment)
        wanted = replace(wanted, version=name, stable_version=_worth_keeping(tx, deployment))
    written = tx.deployments.update(wanted, replaces_all=version is not None)
    return Edited(written, changed, is_new)


def undo(tx: Transaction, deployment: Deployment, version: str | None, now: datetime.datetime) -> Edited:
    """Want an earlier version again, with the numbers and service fields of now."""
    if not deployment.is_wanted:
        raise Conflict("部署已停止，无法修改 (the deployment is stopped; create another one)")
    name = version or before(tx, deployment)
    if name is None:
        others = [each.name for each in tx.deployments.versions(deployment.id) if each.name != deployment.version]
        named = f"; others: {', '.join(others)}" if others else ""
        raise Conflict(f"没有可以退回的版本 (no other version was ever good{named})")
    found = tx.deployments.version(deployment.id, name)
    if found is None:
        raise NotFound("version", name)
    if found.name == deployment.version and not deployment.failure:
        raise Conflict(f"当前已是版本 {name} ({name} is the present version)")
    spec = with_present(found.spec, deployment.spec)
    check_quota(tx, deployment.account_id, deployment.id, spec)
    changed = _changed(convert.spec_to_wire(deployment.spec), convert.spec_to_wire(spec))
    wanted = replace(
        deployment,
        spec=spec,
        version=found.name,
        stable_version=_worth_keeping(tx, deployment),
        failure="",
        is_paused=False,
        edited_at=now,
        updated_at=now,
    )
    return Edited(tx.deployments.update(wanted), changed, is_new_version=found.name != deployment.version)


def pause(tx: Transaction, deployment: Deployment, now: datetime.datetime) -> Deployment:
    """Let no more containers be replaced; a second time changes nothing."""
    check_rolls(deployment)
    if deployment.is_paused:
        return deployment
    return tx.deployments.update(replace(deployment, is_paused=True, updated_at=now))


def resume(tx: Transaction, deployment: Deployment, now: datetime.datetime) -> Deployment:
    """Go on with what was paused, and try again what has failed; else it changes nothing."""
    check_rolls(deployment)
    if not (deployment.is_paused or deployment.failure):
        return deployment
    # The time that it was held back is not held against it.
    return tx.deployments.update(replace(deployment, is_paused=False, failure="", edited_at=now, updated_at=now))


def check_rolls(deployment: Deployment, *, is_stopped_fine: bool = False) -> None:
    """Raise ``Conflict`` unless a deployment's containers are replaced when it is edited."""
    if deployment.spec.type is not DeploymentType.REPLICA_SET:
        kind = deployment.spec.type.value
        raise Conflict(f"仅支持ReplicaSet类型的部署 (a {kind} has no rollout: an edit holds for its next containers)")
    if not (deployment.is_wanted or is_stopped_fine):
        raise Conflict("部署已停止 (the deployment is stopped)")


def _worth_keeping(tx: Transaction, deployment: Deployment) -> str | None:
    """Return the version to fall back to: the last good one, or the one that serves, and none if nothing is ready."""
    if deployment.spec.type is not DeploymentType.REPLICA_SET:
        return None
    live = tx.containers.of_deployment(deployment.id, finished_limit=0)
    ready = next((each for each in live if each.is_ready and each.is_live), None)
    if ready is None:
        return None
    return deployment.stable_version or ready.version


def _next_name(tx: Transaction, deployment: Deployment) -> str:
    versions = tx.deployments.versions(deployment.id)
    taken = {each.name for each in versions}
    number = versions[0].number + 1
    while f"v{number}" in taken:
        number += 1
    return f"v{number}"


def before(tx: Transaction, deployment: Deployment) -> str | None:
    """Return where ``undo`` goes: to the last good one while this one is under way, else the newest that was good."""
    stable = deployment.stable_version
    if deployment.rollout is not RolloutState.COMPLETE and stable is not None:
        return stable
    others = (each for each in tx.deployments.versions(deployment.id) if each.name != deployment.version)
    return next((each.name for each in others if each.good_at is not None), None)


def _lay_template(wire: dict[str, Any], given: Mapping[str, Any]) -> None:
    if "cuda_v" in given and not {"cuda_v_from", "cuda_v_to"} & given.keys():
        wire |= {"cuda_v_from": given["cuda_v"], "cuda_v_to": 0}
    if given.get("region_sign") and not given.get("dc_list"):
        wire["dc_list"] = [given["region_sign"]]
    wire |= {name: value for name, value in given.items() if name in wire}


def _lay_service(wire: dict[str, Any], given: Mapping[str, Any]) -> None:
    check = given.get("health_check")
    if check is not None:  # its own fields change one by one, too
        given = {**given, "health_check": {**(wire["health_check"] or {}), **check}}
    wire |= given


def _changed(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> tuple[str, ...]:
    """Return the dotted names of the fields that differ, never their values: some are secret."""
    names: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            names += _changed(old, new, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return tuple(names)
