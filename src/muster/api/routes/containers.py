"""Containers: list, stop, output."""

from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from muster.api import convert, schemas, since, wanted
from muster.api.audit import note
from muster.api.auth import Caller
from muster.api.body import ObjectBodyRoute
from muster.api.context import Ctx
from muster.api.envelope import Envelope
from muster.errors import Conflict
from muster.model.container import Container
from muster.model.deployment import DeploymentSpec
from muster.model.ids import DeploymentId
from muster.model.run import Ref
from muster.store.port import Transaction
from muster.store.specs import spec_of

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
        rows = [
            convert.container_row(each, spec, context.reach.info(each, spec), context.zone)
            for each, spec in _with_specs(tx, found.items)
        ]
        return convert.page_of(found, rows, body)

    return Envelope(data=await context.store.read(work))


@router.put("/stop")
@router.post("/stop", include_in_schema=False)
async def stop_container(body: schemas.StopContainer, caller: Caller, context: Ctx) -> Envelope[None]:
    """Ask a container to stop; returns at once."""

    def work(tx: Transaction) -> None:
        now, is_decrease = context.clock.now(), convert.decreases(body)
        is_asked = wanted.stop_container(
            tx,
            wanted.own_container(tx, caller, body.deployment_container_uuid),
            no_cache=convert.keeps_no_cache(body),
            cmd_before_shutdown=body.cmd_before_shutdown or None,
            decrease_one_replica_num=is_decrease,
            now=now,
        )
        if is_asked:
            said = "and want one replica less" if is_decrease else ""
            note(tx, caller, "container.stop", body.deployment_container_uuid, said, now)

    await wanted.write(context.store, work)
    return Envelope(data=None)


@extension.get("/{uuid}/logs", response_class=StreamingResponse)
async def read_logs(
    uuid: str,
    caller: Caller,
    context: Ctx,
    *,
    tail: int | None = Query(None, ge=0, le=1_000_000),
    begin: str | None = Query(None, alias="since"),
    follow: bool = False,
) -> StreamingResponse:
    """Stream a container's output; ``follow`` goes on until the container has ended.

    ``since`` is a duration before now (``10m``, ``2h30m``, seconds) or a time (RFC 3339).
    """
    moment = None
    if begin is not None:
        moment = since.moment("since", begin, now=context.clock.now(), zone=context.zone)
    container = await context.store.read(lambda tx: wanted.own_container(tx, caller, uuid))
    assert container.placement is not None  # a uuid is made by placement
    ref = Ref(container.placement.machine_id, container.id, container.generation)
    if moment is not None and not context.access.capabilities.dates_logs:
        raise Conflict("this engine does not date what containers write, so there is no since; tail can be asked")
    output = context.access.logs(ref, tail=tail, since=moment, follow=follow)
    return StreamingResponse(output, media_type="text/plain; charset=utf-8")


def _with_specs(tx: Transaction, containers: Iterable[Container]) -> Iterator[tuple[Container, DeploymentSpec]]:
    """Return each container with the specification that it was made from."""
    specs: dict[tuple[DeploymentId, str], DeploymentSpec] = {}
    for container in containers:
        key = (container.deployment_id, container.version)
        if key not in specs:
            deployment = tx.deployments.get(container.deployment_id)
            assert deployment is not None  # rows of deployments outlive those of their containers
            specs[key] = spec_of(tx, container, deployment)
        yield container, specs[key]
