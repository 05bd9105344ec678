"""Edits and rollouts of deployments: AutoDL's developer API has neither, so all of it is ours."""

from collections.abc import Callable

from fastapi import APIRouter

from muster.api import audit, convert, editing, rollout_schemas, wanted
from muster.api.auth import Caller, Deployer
from muster.api.body import ObjectBodyRoute
from muster.api.command import command_warnings, examined
from muster.api.context import Context, Ctx
from muster.api.editing import Edited
from muster.api.envelope import Envelope
from muster.api.schemas import CommandWarningRow
from muster.controller.deployments import Look, outdated_of, plan_of
from muster.model.account import Caller as CallerAccount
from muster.model.container import Reason
from muster.model.deployment import Deployment, RolloutState
from muster.store.port import Transaction

router = APIRouter(prefix="/api/v1/dev/deployment", tags=["Muster"], route_class=ObjectBodyRoute)
extension = APIRouter(prefix="/api/v1/muster/deployments", tags=["Muster"], route_class=ObjectBodyRoute)


@router.put("")
async def edit_deployment(
    body: rollout_schemas.EditDeployment, caller: Deployer, context: Ctx
) -> Envelope[rollout_schemas.EditedDeployment]:
    """Change a deployment (an extension); containers that no longer match are replaced one after the other."""
    warnings: list[CommandWarningRow] = []
    if body.container_template.cmd is not None:
        judged = await examined(body.container_template.cmd)
        body.container_template.cmd = judged.cmd
        warnings = command_warnings(judged.warnings)

    def work(tx: Transaction) -> Edited:
        deployment = wanted.own_deployment(tx, caller, body.deployment_uuid)
        spec = editing.overlay(deployment.spec, body)
        if spec != deployment.spec:
            wanted.check(tx, caller, spec)
        edited = editing.edit(tx, deployment, spec, body.version, context.clock.now())
        _note(tx, caller, "deployment.edit", edited, context)
        return edited

    edited = await wanted.write(context.store, work)
    return Envelope(data=_edited_row(edited, warnings))


@extension.get("/{uuid}/rollout")
async def get_rollout(uuid: str, caller: Caller, context: Ctx) -> rollout_schemas.RolloutRow:
    """Tell how far the present version of a deployment is."""

    def work(tx: Transaction) -> rollout_schemas.RolloutRow:
        deployment = wanted.own_deployment(tx, caller, uuid)
        editing.check_rolls(deployment, is_stopped_fine=True)
        return _row(tx, deployment, context)

    return await context.store.read(work)


@extension.get("/{uuid}/versions")
async def list_versions(uuid: str, caller: Caller, context: Ctx) -> rollout_schemas.VersionList:
    """List the versions of a deployment, newest first."""

    def work(tx: Transaction) -> rollout_schemas.VersionList:
        deployment = wanted.own_deployment(tx, caller, uuid)
        present = tx.containers.of_deployment(deployment.id, finished_limit=0)
        live = [each.version for each in present if each.is_live]
        rows = [
            rollout_schemas.VersionRow(
                version=each.name,
                number=each.number,
                created_at=convert.wire_time(each.created_at, context.zone),
                is_wanted=each.name == deployment.version,
                is_stable=each.name == deployment.stable_version,
                was_good=each.good_at is not None,
                container_num=live.count(each.name),
                image_uuid=each.spec.image,
                cmd=each.spec.cmd,
            )
            for each in tx.deployments.versions(deployment.id)
        ]
        return rollout_schemas.VersionList(versions=rows)

    return await context.store.read(work)


@extension.post("/{uuid}/rollout/pause")
async def pause_rollout(uuid: str, caller: Deployer, context: Ctx) -> rollout_schemas.RolloutRow:
    """Replace no more containers for now; what ends is made anew from the last good version."""
    return await _held(uuid, "pause", editing.pause, caller, context)


@extension.post("/{uuid}/rollout/resume")
async def resume_rollout(uuid: str, caller: Deployer, context: Ctx) -> rollout_schemas.RolloutRow:
    """Go on with a paused rollout, or try a failed one again."""
    return await _held(uuid, "resume", editing.resume, caller, context)


@extension.post("/{uuid}/rollout/undo")
async def undo_rollout(
    uuid: str, body: rollout_schemas.Undo, caller: Deployer, context: Ctx
) -> rollout_schemas.EditedDeployment:
    """Go back to an earlier version: by default the last good one, or the one before."""

    def work(tx: Transaction) -> Edited:
        deployment = wanted.own_deployment(tx, caller, uuid)
        edited = editing.undo(tx, deployment, body.version, context.clock.now())
        wanted.check(tx, caller, edited.deployment.spec)
        _note(tx, caller, "rollout.undo", edited, context)
        return edited

    return _edited_row(await wanted.write(context.store, work), [])


async def _held(
    uuid: str, word: str, change: Callable[..., Deployment], caller: CallerAccount, context: Context
) -> rollout_schemas.RolloutRow:
    def work(tx: Transaction) -> rollout_schemas.RolloutRow:
        now = context.clock.now()
        before = wanted.own_deployment(tx, caller, uuid)
        after = change(tx, before, now)
        if after != before:
            audit.note(tx, caller, f"rollout.{word}", uuid, f"version {after.version}", now)
        return _row(tx, after, context)

    return await wanted.write(context.store, work)


def _note(tx: Transaction, caller: CallerAccount, action: str, edited: Edited, context: Context) -> None:
    deployment = edited.deployment
    if edited.changed or edited.is_new_version:
        detail = f"version {deployment.version}; changed: {', '.join(edited.changed) or 'nothing'}"
        audit.note(tx, caller, action, deployment.id, detail, context.clock.now())


def _edited_row(edited: Edited, warnings: list[CommandWarningRow]) -> rollout_schemas.EditedDeployment:
    return rollout_schemas.EditedDeployment(
        deployment_uuid=edited.deployment.id,
        version=edited.deployment.version,
        is_new_version=edited.is_new_version,
        is_paused=edited.deployment.is_paused,
        changed=list(edited.changed),
        warnings=warnings,
    )


def _row(tx: Transaction, deployment: Deployment, context: Context) -> rollout_schemas.RolloutRow:
    live = [each for each in tx.containers.of_deployment(deployment.id, finished_limit=0) if each.is_live]
    others = outdated_of(tx, deployment, live)
    # What is outdated is so against the version that containers are made from; while that is the last good one, the
    # updated ones are among them.
    is_held_back = deployment.target_version != deployment.version
    updated = [each for each in live if (each.version == deployment.version if is_held_back else each.id not in others)]
    state = deployment.rollout
    if not (live or deployment.spec.replica_num) or not deployment.is_wanted:  # nothing is to be seen of it
        state = RolloutState.COMPLETE if state is RolloutState.PROGRESSING else state
    if state is RolloutState.COMPLETE and Reason.REPLACED in others.values():  # back to what was good once
        state = RolloutState.PROGRESSING
    return rollout_schemas.RolloutRow(
        deployment_uuid=deployment.id,
        name=deployment.spec.name,
        state=state.value,
        version=deployment.version,
        stable_version=deployment.stable_version,
        is_paused=deployment.is_paused,
        failure=deployment.failure,
        undo_version=editing.before(tx, deployment),
        wanted_num=deployment.spec.replica_num if deployment.is_wanted else 0,
        updated_num=len(updated),
        ready_num=sum(each.is_ready for each in updated),
        outdated_num=len(live) - len(updated),
        message=_message(tx, deployment, state, context),
    )


def _message(tx: Transaction, deployment: Deployment, state: RolloutState, context: Context) -> str:
    version, stable = deployment.version, deployment.stable_version
    match state:
        case RolloutState.COMPLETE if not deployment.is_wanted:
            return "the deployment is stopped"
        case RolloutState.COMPLETE if deployment.spec.replica_num == 0:
            return f"{version} has 0 replicas: whether it is good is seen when there are some"
        case RolloutState.COMPLETE:
            return f"{version} is good"
        case RolloutState.FAILED:
            kept = f"; {stable} is kept (undo goes back to it, resume tries again)" if stable else ""
            return f"{version} has failed: {deployment.failure}{kept}"
        case RolloutState.PAUSED:
            held = f"; new containers are of {stable}" if stable else ""
            return f"{version} is paused{held}; to go on: resume"
        case RolloutState.PROGRESSING:
            look = Look(has_images=context.access.capabilities.has_images)
            plan = plan_of(tx, deployment, context.clock.now(), look)
            room = "; no machine has room for one more, and none can be made" if plan.wants_room else ""
            return f"{version} is being rolled out: {plan.report.sentence}{room}"
