"""Any value that the model allows comes back from the database as it went in."""

import datetime
import string
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import StoreUnavailable
from muster.model.container import Address, Container, ContainerStatus, Placement, Reason, StopRequest
from muster.model.deployment import (
    PORTS,
    DeploymentSpec,
    DeploymentType,
    HealthCheck,
    PortProtocol,
    Requirements,
    ReuseScope,
    ServiceSpec,
)
from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId, ImageUuid, MachineId
from muster.model.quantity import Range
from muster.store.sql import codec
from muster.store.sql.rows import container_from_row, container_to_row
from muster.store.sql.tables import containers, metadata

# whatever UTF-8 can hold: a lone surrogate is refused where requests are read
texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.text(string.ascii_letters, min_size=1, max_size=10)
integers = st.integers(0, 2**62)
moments = st.datetimes(
    datetime.datetime(1970, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime.datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([datetime.UTC, datetime.timezone(datetime.timedelta(hours=8))]),
)


def mappings(keys: st.SearchStrategy[Any], values: st.SearchStrategy[Any]) -> st.SearchStrategy[Mapping[Any, Any]]:
    return st.dictionaries(keys, values, max_size=3).map(MappingProxyType)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    lower = draw(integers)
    return Range(lower, draw(st.none() | st.integers(lower, 2**63)))


requirements = st.builds(
    Requirements,
    gpu_num=st.integers(1, 64),
    gpu_names=st.frozensets(texts, max_size=3),
    data_centers=st.frozensets(texts, max_size=3),
    cuda=ranges(),
    cpu_num=ranges(),
    memory_bytes=ranges(),
    price_milliyuan=ranges(),
)
services = st.builds(
    ServiceSpec,
    concurrency=st.none() | st.integers(1, 1000),
    budgets=mappings(names, integers),
    drain_seconds=st.none() | st.floats(0, 86400),
    drain_grace_seconds=st.floats(0, 86400),
    health_check=st.none()
    | st.builds(
        HealthCheck,
        port=st.sampled_from(PORTS),
        path=st.none() | texts.map(lambda text: "/" + text),
        interval_seconds=st.floats(0.05, 3600),
        timeout_seconds=st.floats(0.05, 300),
        unhealthy_after=st.integers(1, 100),
    ),
)
specs = st.builds(
    DeploymentSpec,
    name=texts.filter(bool),
    type=st.sampled_from(DeploymentType),
    image=names.map(ImageUuid),
    cmd=texts.filter(str.strip),
    replica_num=integers,
    parallelism_num=st.integers(1, 1000),
    requirements=requirements,
    cmd_before_shutdown=texts,
    env=mappings(texts, texts),
    protocols=mappings(st.sampled_from(PORTS), st.sampled_from(PortProtocol)),
    reuse_container=st.booleans(),
    reuse_scope=st.sampled_from(ReuseScope),
    service=services,
)
placements = st.builds(
    Placement,
    machine_id=names.map(MachineId),
    data_center=texts,
    gpu_name=texts,
    gpu_indices=st.sets(st.integers(0, 63), max_size=4).map(sorted).map(tuple),
    cpu_num=integers,
    memory_bytes=integers,
    price_milliyuan=integers,
)
stops = st.builds(
    StopRequest,
    reason=st.sampled_from(Reason),
    requested_at=moments,
    no_cache=st.booleans(),
    cmd_before_shutdown=st.none() | texts,
)
any_container = st.builds(
    Container,
    id=names.map(ContainerId),
    number=st.integers(1, 2**31),
    account_id=st.integers(1, 2**31).map(AccountId),
    deployment_id=names.map(DeploymentId),
    version=names,
    created_at=moments,
    updated_at=moments,
    generation=st.integers(1, 100),
    stop=st.none() | stops,
    placement=st.none() | placements,
    uuid=st.none() | names.map(ContainerUuid),
    status=st.none() | st.sampled_from(ContainerStatus),
    addresses=mappings(st.sampled_from(PORTS), st.builds(Address, host=names, port=st.integers(1, 65535))),
    is_ready=st.booleans(),
    reason=st.none() | st.sampled_from(Reason),
    message=texts,
    exit_code=st.none() | st.integers(-(2**31), 2**31),
    started_at=st.none() | moments,
    stopped_at=st.none() | moments,
    released_at=st.none() | moments,
    revision=integers,
)


@pytest.fixture(scope="module")
def engine() -> Iterator[sa.Engine]:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@given(spec=specs)
@settings(deadline=None, max_examples=50)
def test_any_specification_survives(engine: sa.Engine, spec: DeploymentSpec) -> None:
    with engine.connect() as connection:
        stored: Any = connection.scalar(sa.select(sa.literal(codec.spec_to_json(spec), sa.JSON)))
    assert codec.spec_from_json(stored) == spec


@given(container=any_container)
@settings(deadline=None, max_examples=50)
def test_any_container_survives(engine: sa.Engine, container: Container) -> None:
    with engine.connect() as connection:  # leaving it rolls back
        identity = {
            "id": container.id,
            "number": container.number,
            "account_id": container.account_id,
            "deployment_id": container.deployment_id,
            "created_at": container.created_at,
            "revision": container.revision,
        }
        connection.execute(sa.insert(containers), {**identity, **container_to_row(container)})
        row = connection.execute(sa.select(containers)).one()
    assert container_from_row(row) == container
    assert (row.finished_at is not None) == container.is_finished


def test_every_column_of_a_container_is_written() -> None:
    written = {"id", "number", "account_id", "deployment_id", "created_at", "revision"}
    container = Container(
        id=ContainerId("c"),
        number=1,
        account_id=AccountId(1),
        deployment_id=DeploymentId("d"),
        version="v1",
        created_at=datetime.datetime.now(datetime.UTC),
        updated_at=datetime.datetime.now(datetime.UTC),
    )
    assert written | set(container_to_row(container)) == set(containers.c.keys())


def test_a_specification_of_a_newer_form_is_refused() -> None:
    with pytest.raises(StoreUnavailable, match="upgrade muster"):
        codec.spec_from_json({"schema": codec.SCHEMA + 1})


def test_a_time_without_a_zone_is_refused(engine: sa.Engine) -> None:
    naive = datetime.datetime(2026, 3, 2)  # noqa: DTZ001 - that is the point
    with engine.connect() as connection, pytest.raises(sa.exc.StatementError, match="no time zone"):
        connection.execute(sa.select(containers).where(containers.c.created_at > naive))
