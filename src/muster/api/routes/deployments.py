"""Deployments: create, list, scale, stop, delete; and our own detail and dry run."""

from collections.abc import Iterable, Mapping

from fastapi import APIRouter, Query

from muster.api import convert, schemas, wanted
from muster.api.audit import note
from muster.api.auth import Caller, Deployer
from muster.api.body import ObjectBodyRoute
from muster.api.command import command_warnings, examined_spec
from muster.api.context import Context, Ctx
from muster.api.envelope import Envelope
from muster.api.quota import check_quota
from muster.errors import InvalidSpec
from muster.model.container import Container
from muster.model.deployment import Deployment, DeploymentSpec
from muster.model.ids import DeploymentId, ImageUuid
from muster.store.port import Transaction
from muster.store.specs import spec_of

router = APIRouter(prefix="/api/v1/dev/deployment", tags=["AutoDL"], route_class=ObjectBodyRoute)
extension = APIRouter(prefix="/api/v1/muster/deployments", tags=["Muster"], route_class=ObjectBodyRoute)


@router.post("")
async def create_deployment(
    body: schemas.CreateDeployment, caller: Deployer, context: Ctx
) -> Envelope[schemas.CreatedDeployment]:
    """Create a deployment; what does not fit yet waits for a machine."""
    spec, warnings = await examined_spec(convert.spec_from(body))
    uuid, now = DeploymentId(context.random_hex(10)), context.clock.now()

    def work(tx: Transaction) -> None:
        wanted.check(tx, caller, spec)
        check_quota(tx, caller.id, None, spec)
        tx.deployments.add(caller.id, uuid, spec, now)
        note(tx, caller, "deployment.create", uuid, _summary(spec), now)

    await wanted.write(context.store, work)
    return Envelope(data=schemas.CreatedDeployment(deployment_uuid=uuid, warnings=command_warnings(warnings)))


@router.delete("")
async def delete_deployment(
    body: schemas.DeleteDeployment, caller: Caller, context: Ctx, deployment_uuid: str = ""
) -> Envelope[None]:
    """Stop and delete a deployment."""
    uuid = body.deployment_uuid or deployment_uuid
    if not uuid:
        raise InvalidSpec("deployment_uuid", "is required")

    def work(tx: Transaction) -> None:
        now, deployment = context.clock.now(), wanted.own_deployment(tx, caller, uuid)
        wanted.delete_deployment(tx, deployment, now)
        note(tx, caller, "deployment.delete", deployment.id, deployment.spec.name, now)

    await wanted.write(context.store, work)
    return Envelope(data=None)


@router.post("/list")
async def list_deployments(
    body: schemas.ListDeployments, caller: Caller, context: Ctx
) -> Envelope[schemas.PageOf[schemas.DeploymentRow]]:
    """List deployments, newest first."""
    query = convert.deployment_query(body, caller.id)

    def work(tx: Transaction) -> schemas.PageOf[schemas.DeploymentRow]:
        found = tx.deployments.find(query)
        return convert.page_of(found, _rows(tx, found.items, context), body)

    return Envelope(data=await context.store.read(work))


@router.get("/list", include_in_schema=False)
async def list_deployments_by_get(caller: Caller, context: Ctx) -> Envelope[schemas.PageOf[schemas.DeploymentRow]]:
    """List the first page, for clients that ask by GET."""
    return await list_deployments(schemas.ListDeployments(), caller, context)


@router.put("/replica_num")
async def set_replica_num(
    body: schemas.SetReplicaNum, caller: Caller, context: Ctx
) -> Envelope[schemas.DeploymentUuid]:
    """Scale a ReplicaSet."""

    def work(tx: Transaction) -> None:
        now, deployment = context.clock.now(), wanted.own_deployment(tx, caller, body.deployment_uuid)
        wanted.scale(tx, deployment, body.replica_num, now)
        said = f"{deployment.spec.name}: {deployment.spec.replica_num} to {body.replica_num}"
        note(tx, caller, "deployment.scale", deployment.id, said, now)

    await wanted.write(context.store, work)
    return Envelope(data=schemas.DeploymentUuid(deployment_uuid=body.deployment_uuid))


@router.put("/operate")
@router.post("/operate", include_in_schema=False)
async def operate_deployment(body: schemas.Operate, caller: Caller, context: Ctx) -> Envelope[None]:
    """Stop a deployment with all its containers for good, or delete it."""
    change = wanted.delete_deployment if convert.deletes(body) else wanted.stop_deployment

    def work(tx: Transaction) -> None:
        now, deployment = context.clock.now(), wanted.own_deployment(tx, caller, body.deployment_uuid)
        if deployment.is_wanted or convert.deletes(body):
            change(tx, deployment, now)
            action = "deployment.delete" if convert.deletes(body) else "deployment.stop"
            note(tx, caller, action, deployment.id, deployment.spec.name, now)

    await wanted.write(context.store, work)
    return Envelope(data=None)


@extension.post("/check")
async def check_deployment(body: schemas.CreateDeployment, caller: Deployer, context: Ctx) -> schemas.CheckedDeployment:
    """Judge a deployment without creating it; answers how it was understood."""
    spec, warnings = await examined_spec(convert.spec_from(body))

    def work(tx: Transaction) -> None:
        wanted.check(tx, caller, spec)
        check_quota(tx, caller.id, None, spec)

    await context.store.read(work)
    return schemas.CheckedDeployment(spec=convert.spec_to_wire(spec), warnings=command_warnings(warnings))


@extension.get("/{uuid}")
async def get_deployment(uuid: str, caller: Caller, context: Ctx) -> schemas.DeploymentDetail:
    """Return everything about a deployment, with why its unplaced containers have no machine."""

    def work(tx: Transaction) -> tuple[Deployment, schemas.DeploymentRow, list[schemas.UnplacedRow]]:
        deployment = wanted.own_deployment(tx, caller, uuid)
        return deployment, _rows(tx, [deployment], context)[0], _unplaced(tx, deployment, context)

    deployment, row, unplaced = await context.store.read(work)
    return schemas.DeploymentDetail(**row.model_dump(), spec=convert.spec_to_wire(deployment.spec), unplaced=unplaced)


@extension.get("/{uuid}/containers")
async def list_containers_of(
    uuid: str, caller: Caller, context: Ctx, finished: int = Query(50, ge=0, le=1000)
) -> schemas.ContainerList:
    """Return all placed, unfinished containers and the latest ``finished`` ones, oldest first."""

    def work(tx: Transaction) -> schemas.ContainerList:
        deployment = wanted.own_deployment(tx, caller, uuid)
        placed = (
            each
            for each in tx.containers.of_deployment(deployment.id, finished_limit=finished)
            if each.placement is not None
        )
        rows = [_row(tx, each, deployment, context) for each in placed]
        return schemas.ContainerList(containers=rows)

    return await context.store.read(work)


def _summary(spec: DeploymentSpec) -> str:
    """Say what a new deployment is, without what may be secret."""
    return (
        f"{spec.name}: {spec.type.value}, {spec.replica_num} containers of {spec.requirements.gpu_num} GPUs,"
        f" image {spec.image}"
    )


def _rows(tx: Transaction, deployments: Iterable[Deployment], context: Context) -> list[schemas.DeploymentRow]:
    deployments = list(deployments)
    counts = tx.deployments.counts(each.id for each in deployments)
    names = _image_names(tx, deployments)
    return [convert.deployment_row(each, counts[each.id], names[each.spec.image], context.zone) for each in deployments]


def _image_names(tx: Transaction, deployments: Iterable[Deployment]) -> Mapping[ImageUuid, str]:
    images = {each.spec.image: tx.images.get(each.account_id, each.spec.image) for each in deployments}
    return {uuid: "" if image is None else image.name for uuid, image in images.items()}


def _unplaced(tx: Transaction, deployment: Deployment, context: Context) -> list[schemas.UnplacedRow]:
    waiting = (each for each in tx.containers.of_deployment(deployment.id, finished_limit=0) if each.is_live)
    return [
        convert.unplaced_row(each, explanation.sentence() if explanation else "not looked at yet", context.zone)
        for each in waiting
        if each.placement is None
        for explanation in [context.explain(each.id)]
    ]


def _row(tx: Transaction, container: Container, deployment: Deployment, context: Context) -> schemas.ContainerRow:
    spec = spec_of(tx, container, deployment)
    return convert.container_row(container, spec, context.reach.info(container, spec), context.zone)
