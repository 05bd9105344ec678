"""The JSON form of a specification and of addresses, written out field by field.

In go values of the model, out come dictionaries for a JSON column, and back. Explicit on purpose: a renamed field of
the model must not silently change what old rows mean. ``schema`` is stored with every specification; a reader knows
every schema up to its own, and a field that an older writer did not know gets the model's default.

Refused: pickling and ``dataclasses.asdict``, whose form is whatever the classes are today.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from muster.errors import StoreUnavailable
from muster.model.container import Address
from muster.model.deployment import (
    DeploymentSpec,
    DeploymentType,
    HealthCheck,
    ImagePull,
    PortProtocol,
    Requirements,
    ReuseScope,
    ServiceSpec,
)
from muster.model.ids import ImageUuid
from muster.model.quantity import Range

SCHEMA = 1

Json = dict[str, Any]


def spec_to_json(spec: DeploymentSpec) -> Json:
    """Return the stored form of a specification."""
    return {
        "schema": SCHEMA,
        "name": spec.name,
        "type": spec.type.value,
        "image": spec.image,
        "cmd": spec.cmd,
        "replica_num": spec.replica_num,
        "parallelism_num": spec.parallelism_num,
        "requirements": _requirements_to_json(spec.requirements),
        "cmd_before_shutdown": spec.cmd_before_shutdown,
        "env": dict(spec.env),
        "protocols": {str(port): protocol.value for port, protocol in spec.protocols.items()},
        "reuse_container": spec.reuse_container,
        "reuse_scope": spec.reuse_scope.value,
        "image_pull": spec.image_pull.value,
        "service": _service_to_json(spec.service),
    }


def spec_from_json(stored: Json) -> DeploymentSpec:
    """Read a stored specification. Raises ``StoreUnavailable`` for a form newer than this program."""
    if stored["schema"] > SCHEMA:
        raise StoreUnavailable(f"a deployment is stored in form {stored['schema']}, known is {SCHEMA}: upgrade muster")
    return DeploymentSpec(
        name=stored["name"],
        type=DeploymentType(stored["type"]),
        image=ImageUuid(stored["image"]),
        cmd=stored["cmd"],
        replica_num=stored["replica_num"],
        parallelism_num=stored["parallelism_num"],
        requirements=_requirements_from_json(stored["requirements"]),
        cmd_before_shutdown=stored["cmd_before_shutdown"],
        env=MappingProxyType(stored["env"]),
        protocols=MappingProxyType(
            {int(port): PortProtocol(protocol) for port, protocol in stored["protocols"].items()}
        ),
        reuse_container=stored["reuse_container"],
        reuse_scope=ReuseScope(stored["reuse_scope"]),
        image_pull=ImagePull(stored.get("image_pull", ImagePull.MISSING)),
        service=_service_from_json(stored["service"]),
    )


def addresses_to_json(addresses: Mapping[int, Address]) -> Json:
    """Return the stored form of a container's addresses."""
    return {str(port): [address.host, address.port] for port, address in addresses.items()}


def addresses_from_json(stored: Json) -> Mapping[int, Address]:
    """Read stored addresses."""
    return MappingProxyType({int(port): Address(host, number) for port, (host, number) in stored.items()})


def ports_to_json(ports: Mapping[int, int]) -> Json:
    """Return the stored form of the ingress's ports of a container."""
    return {str(port): listen_port for port, listen_port in ports.items()}


def ports_from_json(stored: Json) -> Mapping[int, int]:
    """Read stored ports of the ingress."""
    return MappingProxyType({int(port): int(listen_port) for port, listen_port in stored.items()})


def _requirements_to_json(requirements: Requirements) -> Json:
    return {
        "gpu_num": requirements.gpu_num,
        "gpu_names": sorted(requirements.gpu_names),
        "data_centers": sorted(requirements.data_centers),
        "cuda": _range_to_json(requirements.cuda),
        "cpu_num": _range_to_json(requirements.cpu_num),
        "memory_bytes": _range_to_json(requirements.memory_bytes),
        "price_milliyuan": _range_to_json(requirements.price_milliyuan),
    }


def _requirements_from_json(stored: Json) -> Requirements:
    return Requirements(
        gpu_num=stored["gpu_num"],
        gpu_names=frozenset(stored["gpu_names"]),
        data_centers=frozenset(stored["data_centers"]),
        cuda=Range(*stored["cuda"]),
        cpu_num=Range(*stored["cpu_num"]),
        memory_bytes=Range(*stored["memory_bytes"]),
        price_milliyuan=Range(*stored["price_milliyuan"]),
    )


def _range_to_json(bounds: Range) -> list[int | None]:
    return [bounds.lower, bounds.upper]


def _service_to_json(service: ServiceSpec) -> Json:
    check = service.health_check
    return {
        "concurrency": service.concurrency,
        "budgets": dict(service.budgets),
        "drain_seconds": service.drain_seconds,
        "drain_grace_seconds": service.drain_grace_seconds,
        "ready_within_seconds": service.ready_within_seconds,
        "health_check": None
        if check is None
        else {
            "port": check.port,
            "path": check.path,
            "interval_seconds": check.interval_seconds,
            "timeout_seconds": check.timeout_seconds,
            "unhealthy_after": check.unhealthy_after,
            "stalled_after_seconds": check.stalled_after_seconds,
        },
    }


def _service_from_json(stored: Json) -> ServiceSpec:
    check = stored["health_check"]
    return ServiceSpec(
        concurrency=stored["concurrency"],
        budgets=MappingProxyType(stored["budgets"]),
        drain_seconds=stored["drain_seconds"],
        drain_grace_seconds=stored["drain_grace_seconds"],
        ready_within_seconds=stored.get("ready_within_seconds", 600.0),
        health_check=None
        if check is None
        else HealthCheck(
            port=check["port"],
            path=check["path"],
            interval_seconds=check["interval_seconds"],
            timeout_seconds=check["timeout_seconds"],
            unhealthy_after=check["unhealthy_after"],
            stalled_after_seconds=check.get("stalled_after_seconds", 600.0),
        ),
    )
