"""Containers: list, stop, output."""

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from muster.api import convert, schemas, wanted
from muster.api.auth import Caller
from muster.api.body import ObjectBodyRoute
from muster.api.context import Ctx
from muster.api.envelope import Envelope
from muster.model.deployment import DeploymentSpec
from muster.model.ids import DeploymentId
from muster.model.run import Ref
from muster.store.port import Transaction

router = APIRouter(prefix="/api/v1/dev/deployment/container", tags=["AutoDL"], route_class=ObjectBodyRoute)
extension = APIRouter(prefix="/api/v1/muster/containers", tags=["Muster"])


@router.post("/list")
async def list_containers(
    body: schemas.ListContainers, caller: Caller, context: Ctx
) -> Envelope[schemas.PageOf[schemas.ContainerRow]]:
    """List placed containers, newest first."""
    query = convert.container_query(body, caller.id, context.zone)

    def work(tx: Transaction) -> schemas.PageOf[schemas.ContainerRow]:
        if body.deployment_uuid:
            wanted.own_deployment(tx, caller, body.deployment_uuid)
        found = tx.containers.find(query)
        specs = {each: _spec(tx, each) for each in {container.deployment_id for container in found.items}}
        rows = [convert.container_row(each, specs[each.deployment_id], context.zone) for each in found.items]
        return convert.page_of(found, rows, body)

    return Envelope(data=await context.store.read(work))


@router.put("/stop")
@router.post("/stop", include_in_schema=False)
async def stop_container(body: schemas.StopContainer, caller: Caller, context: Ctx) -> Envelope[None]:
    """Ask a container to stop; returns at once."""

    def work(tx: Transaction) -> None:
        wanted.stop_container(
            tx,
            wanted.own_container(tx, caller, body.deployment_container_uuid),
            no_cache=convert.keeps_no_cache(body),
            cmd_before_shutdown=body.cmd_before_shutdown,
            decrease_one_replica_num=body.decrease_one_replica_num,
            now=context.clock.now(),
        )

    await wanted.write(context.store, work)
    return Envelope(data=None)


@extension.get("/{uuid}/logs", response_class=StreamingResponse)
async def read_logs(
    uuid: str,
    caller: Caller,
    context: Ctx,
    *,
    tail: int | None = Query(None, ge=0, le=1_000_000),
    follow: bool = False,
) -> StreamingResponse:
    """Stream a container's output; ``follow`` goes on until the container has ended."""
    container = await context.store.read(lambda tx: wanted.own_container(tx, caller, uuid))
    assert container.placement is not None  # a uuid is made by placement
    ref = Ref(container.placement.machine_id, container.id, container.generation)
    output = context.log_source.logs(ref, tail=tail, follow=follow)
    return StreamingResponse(output, media_type="text/plain; charset=utf-8")


def _spec(tx: Transaction, deployment_id: DeploymentId) -> DeploymentSpec:
    deployment = tx.deployments.get(deployment_id)
    assert deployment is not None  # rows of deployments outlive those of their containers
    return deployment.spec
