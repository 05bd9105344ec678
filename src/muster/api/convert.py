"""Wire to model and back: the one place that knows AutoDL's units, defaults, aliases and sentinels.

In: request bodies of ``schemas`` that have the right types. Out: model values, or ``InvalidSpec`` with the field as
the caller wrote it. And the other way round, rows for responses. Pure: the zone is an argument.

The rules, once: memory is GB (2**30) in requests and bytes in responses; a ``…_to`` of 0 is no upper bound;
``cuda_v`` is a minimum where no range of CUDA is given; ``region_sign`` is a data center where ``dc_list`` is empty;
protocols and reuse may stand at the top or in the template, and the top wins; page 0 is page 1; an empty string in a
list of names is none.
"""

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any, TypeVar

from muster.api import schemas
from muster.errors import InvalidSpec
from muster.files import Entry, Listing
from muster.model.container import Container, ContainerStatus
from muster.model.deployment import (
    PORTS,
    Deployment,
    DeploymentSpec,
    DeploymentStatus,
    DeploymentType,
    HealthCheck,
    ImagePull,
    PortProtocol,
    Requirements,
    ReuseScope,
    ServiceSpec,
)
from muster.model.event import Event
from muster.model.ids import AccountId, ContainerUuid, DeploymentId, ImageUuid
from muster.model.image import Image
from muster.model.quantity import GIB, Range
from muster.scheduler.stock import Stock
from muster.store.port import ContainerQuery, Counts, DeploymentQuery, EventQuery, Page, ReuseFigures, Window

DEFAULT_PAGE_SIZE = 10
MAX_PAGE_SIZE = 1000
_MOST_GB = 1 << 20
"""1 PiB: no container has that much, so a larger number was meant in bytes."""

T = TypeVar("T")
Row = TypeVar("Row")


# Requests


def spec_from(body: schemas.CreateDeployment) -> DeploymentSpec:
    """Read a deployment."""
    template = body.container_template
    kind = DeploymentType(body.deployment_type)
    reuse = body.reuse_container if body.reuse_container is not None else template.reuse_container
    return DeploymentSpec(
        name=body.name,
        type=kind,
        image=ImageUuid(template.image_uuid),
        cmd=template.cmd,
        replica_num=_replica_num(body, kind),
        parallelism_num=_parallelism_num(body, kind),
        requirements=_requirements(template, gpu_num=template.gpu_num, path="container_template."),
        cmd_before_shutdown=template.cmd_before_shutdown,
        env=MappingProxyType(_env(template.env_vars)),
        protocols=MappingProxyType(_protocols(body, template)),
        reuse_container=bool(reuse),
        reuse_scope=ReuseScope(body.reuse_container_scope or template.reuse_container_scope or ReuseScope.ALL),
        image_pull=ImagePull(template.image_pull),
        service=_service(body.service),
    )


def stock_requirements(body: schemas.StockFilter) -> Requirements:
    """Read which machines to count."""
    requirements = _requirements(body, gpu_num=1, path="")
    return replace(requirements, data_centers=_named([*body.dc_list, body.region_sign]))


def window(page: schemas.PageRequest) -> Window:
    """Read which rows are wanted."""
    size = min(page.page_size, MAX_PAGE_SIZE) if page.page_size > 0 else DEFAULT_PAGE_SIZE
    return Window(page.offset if page.offset > 0 else (_page_index(page) - 1) * size, size)


def deployment_query(body: schemas.ListDeployments, account_id: AccountId) -> DeploymentQuery:
    """Read which deployments are wanted."""
    return DeploymentQuery(
        account_id=account_id,
        name=body.name or None,
        status=DeploymentStatus(body.status) if body.status else None,
        deployment_id=DeploymentId(body.deployment_uuid) if body.deployment_uuid else None,
        window=window(body),
    )


def container_query(body: schemas.ListContainers, account_id: AccountId, zone: datetime.tzinfo) -> ContainerQuery:
    """Read which containers are wanted."""
    return ContainerQuery(
        account_id=account_id,
        deployment_id=DeploymentId(body.deployment_uuid) if body.deployment_uuid else None,
        container_uuid=ContainerUuid(body.container_uuid) if body.container_uuid else None,
        created_from=_moment("date_from", body.date_from, zone, is_end=False),
        created_to=_moment("date_to", body.date_to, zone, is_end=True),
        gpu_name=body.gpu_name or None,
        cpu_num=_range("cpu_num", body.cpu_num_from, body.cpu_num_to),
        memory_bytes=_memory("memory_size", body.memory_size_from, body.memory_size_to),
        price_milliyuan=_range("price", math.ceil(body.price_from), math.ceil(body.price_to)),
        is_released=body.released,
        statuses=frozenset(_status(word) for word in body.status if word),
        window=window(body),
    )


def event_query(body: schemas.ListEvents, account_id: AccountId) -> EventQuery:
    """Read which events are wanted."""
    return EventQuery(
        account_id=account_id,
        deployment_id=DeploymentId(body.deployment_uuid),
        container_uuid=ContainerUuid(body.deployment_container_uuid) if body.deployment_container_uuid else None,
        window=window(body),
    )


def keeps_no_cache(body: schemas.StopContainer) -> bool:
    """Read whether a stopped container is to be kept out of the reuse pool."""
    if body.no_cache is None:
        return body.cache_container is False
    return body.no_cache


def decreases(body: schemas.StopContainer) -> bool:
    """Read whether the number of replicas falls with a stop."""
    chosen = body.decrease_replica if body.decrease_one_replica_num is None else body.decrease_one_replica_num
    return bool(chosen)


def deletes(body: schemas.Operate) -> bool:
    """Read whether a deployment is to be deleted, and not only stopped."""
    word = body.operate or body.operation
    if word not in {"stop", "delete"}:
        raise InvalidSpec("operate", f"must be 'stop' or 'delete', got {word!r}")
    return word == "delete"


def _replica_num(body: schemas.CreateDeployment, kind: DeploymentType) -> int:
    if kind is DeploymentType.CONTAINER:
        return 1
    if body.replica_num is None:
        raise InvalidSpec("replica_num", f"is required for a {kind.value}")
    if kind is DeploymentType.JOB and body.replica_num < 1:
        raise InvalidSpec("replica_num", "must be at least 1 for a Job")
    return body.replica_num


def _parallelism_num(body: schemas.CreateDeployment, kind: DeploymentType) -> int:
    if kind is not DeploymentType.JOB:
        return 1
    if body.parallelism_num is None:
        raise InvalidSpec("parallelism_num", "is required for a Job")
    if body.parallelism_num < 1:
        raise InvalidSpec("parallelism_num", "must be at least 1 for a Job")
    return body.parallelism_num


def _requirements(body: schemas.ContainerTemplate | schemas.StockFilter, *, gpu_num: int, path: str) -> Requirements:
    has_cuda_range = body.cuda_v_from or body.cuda_v_to
    return Requirements(
        gpu_num=gpu_num,
        gpu_names=_named(body.gpu_name_set),
        data_centers=_named(body.dc_list) or _named([body.region_sign]),
        cuda=_range(f"{path}cuda_v", body.cuda_v_from or 0, body.cuda_v_to or 0)
        if has_cuda_range
        else Range(body.cuda_v),
        cpu_num=_range(f"{path}cpu_num", body.cpu_num_from, body.cpu_num_to),
        memory_bytes=_memory(f"{path}memory_size", body.memory_size_from, body.memory_size_to),
        price_milliyuan=_range(f"{path}price", body.price_from, body.price_to),
    )


def _named(names: Iterable[str]) -> frozenset[str]:
    """Leave out empty names: as everywhere, they stand for no choice."""
    return frozenset(name for name in names if name)


def _range(field: str, lower: int, upper: int) -> Range:
    if 0 < upper < lower:
        raise InvalidSpec(f"{field}_to", f"must be at least {field.rpartition('.')[2]}_from ({lower}), got {upper}")
    return Range(lower, upper or None)


def _memory(field: str, lower: int, upper: int) -> Range:
    for suffix, size in (("from", lower), ("to", upper)):
        if size > _MOST_GB:
            raise InvalidSpec(f"{field}_{suffix}", f"is in GB, {size} looks like bytes")
    in_gb = _range(field, lower, upper)
    return Range(in_gb.lower * GIB, None if in_gb.upper is None else in_gb.upper * GIB)


def _env(variables: Mapping[str, str]) -> dict[str, str]:
    for name in variables:
        if not name or "=" in name or any(map(str.isspace, name)):
            raise InvalidSpec("container_template.env_vars", f"{name!r} is no name of an environment variable")
    return dict(variables)


def _protocols(*places: schemas.PortProtocols) -> dict[int, PortProtocol]:
    """Choose each port's protocol: its own field before the one for both, the first place before the next."""
    chosen = {}
    for port in PORTS:
        own = [getattr(place, f"service_{port}_port_protocol") for place in places]
        both = [place.service_port_protocol for place in places]
        chosen[port] = PortProtocol(next(filter(None, [*own, *both]), PortProtocol.HTTP))
    return chosen


def _service(body: schemas.ServiceBody) -> ServiceSpec:
    check = body.health_check
    return ServiceSpec(
        concurrency=body.concurrency,
        budgets=MappingProxyType(dict(body.budgets)),
        drain_seconds=body.drain_seconds,
        drain_grace_seconds=body.drain_grace_seconds,
        ready_within_seconds=body.ready_within_seconds,
        health_check=None
        if check is None
        else HealthCheck(
            port=check.port,
            path=check.path or None,
            interval_seconds=check.interval_seconds,
            timeout_seconds=check.timeout_seconds,
            unhealthy_after=check.unhealthy_after,
            stalled_after_seconds=check.stalled_after_seconds,
        ),
    )


def _status(word: str) -> ContainerStatus:
    try:
        return ContainerStatus(word)
    except ValueError:
        raise InvalidSpec("status", f"must be among {', '.join(ContainerStatus)}; got {word!r}") from None


def _moment(field: str, text: str, zone: datetime.tzinfo, *, is_end: bool) -> datetime.datetime | None:
    """Read RFC 3339, ``YYYY-MM-DD HH:MM:SS`` or ``YYYY-MM-DD`` (as an end: the whole day)."""
    if not text:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
        if is_end and _is_day(text):
            moment += datetime.timedelta(days=1, microseconds=-1)
        return moment.replace(tzinfo=moment.tzinfo or zone).astimezone(datetime.UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidSpec(field, f"must be a time like 2026-03-02 09:14:31, got {text!r}") from error


def _is_day(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _page_index(page: schemas.PageRequest) -> int:
    return max(1, page.page_index)


# Responses


def spec_to_wire(spec: DeploymentSpec) -> dict[str, Any]:
    """Return the body that would create this deployment, every default spelled out and every list in order."""
    needs = spec.requirements
    check = spec.service.health_check
    return {
        "name": spec.name,
        "deployment_type": spec.type.value,
        "replica_num": spec.replica_num,
        "parallelism_num": spec.parallelism_num,
        "reuse_container": spec.reuse_container,
        "reuse_container_scope": spec.reuse_scope.value,
        **{f"service_{port}_port_protocol": spec.protocols[port].value for port in PORTS},
        "container_template": {
            "dc_list": sorted(needs.data_centers),
            "gpu_name_set": sorted(needs.gpu_names),
            "gpu_num": needs.gpu_num,
            **_bounds("cuda_v", needs.cuda),
            **_bounds("cpu_num", needs.cpu_num),
            **_bounds("memory_size", needs.memory_bytes, unit=GIB),
            **_bounds("price", needs.price_milliyuan),
            "image_uuid": spec.image,
            "image_pull": spec.image_pull.value,
            "cmd": spec.cmd,
            "cmd_before_shutdown": spec.cmd_before_shutdown,
            "env_vars": dict(sorted(spec.env.items())),
        },
        "service": {
            "concurrency": spec.service.concurrency,
            "budgets": dict(sorted(spec.service.budgets.items())),
            "drain_seconds": spec.service.drain_seconds,
            "drain_grace_seconds": spec.service.drain_grace_seconds,
            "ready_within_seconds": spec.service.ready_within_seconds,
            "health_check": None if check is None else asdict(check),
        },
    }


def page_of(found: Page[T], rows: Sequence[Row], asked: schemas.PageRequest) -> schemas.PageOf[Row]:
    """Wrap rows in what AutoDL says about a page."""
    size = window(asked).limit
    return schemas.PageOf(
        list=list(rows),
        page_index=_page_index(asked),
        page_size=size,
        offset=max(0, asked.offset),
        max_page=math.ceil(found.total / size),
        result_total=found.total,
        page=_page_index(asked),
    )


def deployment_row(
    deployment: Deployment, counts: Counts, image_name: str, zone: datetime.tzinfo
) -> schemas.DeploymentRow:
    """Show a deployment in a list."""
    spec = deployment.spec
    http_port, other_port = (spec.protocols[port].value for port in PORTS)
    return schemas.DeploymentRow(
        id=deployment.number,
        uid=deployment.account_id,
        uuid=deployment.id,
        name=spec.name,
        deployment_type=spec.type.value,
        status=deployment.status.value,
        replica_num=spec.replica_num,
        parallelism_num=spec.parallelism_num,
        reuse_container=spec.reuse_container,
        reuse_container_scope=spec.reuse_scope.value,
        service_port_protocol=http_port,
        service_6006_port_protocol=http_port,
        service_6008_port_protocol=other_port,
        starting_num=counts.starting,
        running_num=counts.running,
        ready_num=counts.ready,
        finished_num=counts.finished,
        completed_num=counts.completed,
        image_uuid=spec.image,
        version=deployment.version,
        template=_template(spec, image_name),
        price_estimates=counts.price_milliyuan,
        created_at=wire_time(deployment.created_at, zone),
        updated_at=wire_time(deployment.updated_at, zone),
        stopped_at=_maybe_time(deployment.stopped_at, zone),
    )


def container_row(
    container: Container, spec: DeploymentSpec, info: schemas.ContainerInfo, zone: datetime.tzinfo
) -> schemas.ContainerRow:
    """Show a placed container."""
    placement, status = container.placement, container.status
    assert placement is not None and status is not None and container.uuid is not None  # noqa: PT018 one fact
    return schemas.ContainerRow(
        id=container.number,
        uuid=container.uuid,
        version=container.version,
        data_center=placement.data_center,
        machine_id=placement.machine_id,
        deployment_uuid=container.deployment_id,
        status=status.value,
        gpu_name=placement.gpu_name,
        gpu_num=placement.gpu_num,
        cpu_num=placement.cpu_num,
        memory_size=placement.memory_bytes,
        image_uuid=spec.image,
        price=placement.price_milliyuan,
        info=info,
        started_at=_maybe_time(container.started_at, zone),
        stopped_at=_maybe_time(container.stopped_at, zone),
        created_at=wire_time(container.created_at, zone),
        updated_at=wire_time(container.updated_at, zone),
        is_ready=container.is_ready,
        reason=container.reason or "",
        message=container.message,
        exit_code=container.exit_code,
        reused_from=container.reused_from,
    )


def unplaced_row(container: Container, explanation: str, zone: datetime.tzinfo) -> schemas.UnplacedRow:
    """Show a container that waits for a machine."""
    created_at = wire_time(container.created_at, zone)
    return schemas.UnplacedRow(id=container.id, created_at=created_at, explanation=explanation)


def event_row(event: Event, zone: datetime.tzinfo) -> schemas.EventRow:
    """Show an event."""
    return schemas.EventRow(
        id=event.id,
        kind=event.kind.value,
        deployment_uuid=event.deployment_id,
        deployment_container_uuid=event.container_uuid,
        status=event.status.value,
        reason=event.reason or "",
        message=event.message,
        exit_code=event.exit_code,
        created_at=wire_time(event.created_at, zone),
    )


def image_row(image: Image, zone: datetime.tzinfo) -> schemas.ImageRow:
    """Show a private image; ``finished`` means usable."""
    return schemas.ImageRow(
        id=image.number,
        image_uuid=image.uuid,
        image_name=image.name,
        name=image.name,
        status=image.status.value,
        created_at=wire_time(image.created_at, zone),
        updated_at=wire_time(image.updated_at, zone),
    )


def base_image_row(image: Image) -> schemas.BaseImageRow:
    """Show an image of the platform; the catalogue does not know CUDA versions, so that is empty."""
    return schemas.BaseImageRow(
        image_uuid=image.uuid,
        name=image.name,
        url=image.reference,
        cuda_version="",
        chip_corp="nvidia",
        cpu_arch="x86",
    )


def stock_row(stock: Stock, fits: Mapping[int, int]) -> schemas.StockRow:
    """Show how many GPUs of a model there are."""
    return schemas.StockRow(
        gpu_name=stock.gpu_name,
        idle_gpu_num=stock.idle_gpu_num,
        total_gpu_num=stock.total_gpu_num,
        chip_corp=stock.chip_corp,
        cpu_arch=stock.cpu_arch,
        fits={str(size): number for size, number in fits.items()},
    )


def pooled_row(
    container: Container, deployment_name: str, account_name: str, zone: datetime.tzinfo
) -> schemas.PooledRow:
    """Show what waits for reuse."""
    placement, stopped_at = container.placement, container.stopped_at
    assert placement is not None and stopped_at is not None and container.uuid is not None  # noqa: PT018 one fact
    return schemas.PooledRow(
        uuid=container.uuid,
        account=account_name,
        deployment_uuid=container.deployment_id,
        deployment_name=deployment_name,
        machine_id=placement.machine_id,
        data_center=placement.data_center,
        gpu_name=placement.gpu_name,
        gpu_indices=list(placement.gpu_indices),
        image_uuid=container.image or "",
        image_reference=container.image_reference,
        reason=container.reason or "",
        stopped_at=wire_time(stopped_at, zone),
        expires_at=_maybe_time(container.discard_at, zone),
    )


def stats(figures: ReuseFigures, pooled_num: int) -> schemas.Stats:
    """Show what reuse was good for; the rate of nothing is 0."""
    return schemas.Stats(
        starts=figures.starts,
        reuses=figures.reuses,
        hit_rate=figures.reuses / figures.starts if figures.starts else 0.0,
        seconds_saved=figures.seconds_saved,
        pooled=pooled_num,
    )


def file_row(entry: Entry, zone: datetime.tzinfo) -> schemas.FileRow:
    """Show a name in an account's storage."""
    return schemas.FileRow(
        name=entry.name,
        kind=entry.kind.value,
        size_bytes=entry.size_bytes,
        modified_at=wire_time(entry.modified_at, zone),
        mode=f"{entry.mode:03o}",
    )


def file_listing(listing: Listing, zone: datetime.tzinfo) -> schemas.FileListing:
    """Show what is at a path."""
    rows = [file_row(each, zone) for each in listing.entries]
    itself = file_row(listing.itself, zone)
    return schemas.FileListing(**itself.model_dump(), entries=rows, is_complete=listing.is_complete)


def wire_time(moment: datetime.datetime, zone: datetime.tzinfo) -> str:
    """Write RFC 3339 with a numeric zone and no fraction."""
    return moment.astimezone(zone).isoformat(timespec="seconds")


def _maybe_time(moment: datetime.datetime | None, zone: datetime.tzinfo) -> str | None:
    return None if moment is None else wire_time(moment, zone)


def _bounds(name: str, bounds: Range, *, unit: int = 1) -> dict[str, int]:
    return {f"{name}_from": bounds.lower // unit, f"{name}_to": (bounds.upper or 0) // unit}


def _template(spec: DeploymentSpec, image_name: str) -> schemas.TemplateRow:
    needs = spec.requirements
    data_centers = sorted(needs.data_centers)
    return schemas.TemplateRow(
        region_sign="",
        region_sign_list=data_centers,
        dc_list=data_centers,
        gpu_name_set=sorted(needs.gpu_names),
        gpu_num=needs.gpu_num,
        image_uuid=spec.image,
        image_name=image_name,
        cmd=spec.cmd,
        cmd_before_shutdown=spec.cmd_before_shutdown,
        env_vars=dict(spec.env),
        **_bounds("memory_size", needs.memory_bytes),
        **_bounds("cpu_num", needs.cpu_num),
        **_bounds("price", needs.price_milliyuan),
        cuda_v=needs.cuda.lower,
        **_bounds("cuda_v", needs.cuda),
        service_6006_port_protocol=spec.protocols[6006].value,
        service_6008_port_protocol=spec.protocols[6008].value,
    )
