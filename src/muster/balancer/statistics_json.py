"""Statistics as JSON, and back: what a process that balances serves, and what ``muster lb show`` reads.

``{"schema": 1, "pid": 4711, "services": [{…}]}``. A service has the fields of ``Statistics``, by their names, and so
has what is inside of it. A number that is none (an endless wait) is ``null``, since JSON has no word for it. An address
in it has lost its password. A newer process may tell more: what is not known is passed over. ``schema`` grows when a
field loses its meaning.
"""

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, get_type_hints

from muster.balancer.cost import CostStatistics, KindStatistics
from muster.balancer.statistics import ReplicaStatistics, Statistics, TenantStatistics
from muster.model.url import shown

SCHEMA = 1

T = TypeVar("T")

_hints = functools.cache(get_type_hints)


class Snapshot(NamedTuple):
    """What one process told at one moment."""

    pid: int
    services: tuple[Statistics, ...]


def to_json(pid: int, services: Sequence[Statistics]) -> bytes:
    """Write what a process knows."""
    value = {"schema": SCHEMA, "pid": pid, "services": [service_value(each) for each in services]}
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def from_json(data: bytes) -> Snapshot:
    """Read it. Raises ``ValueError`` for what is something else, or of a schema that is not known here."""
    try:
        value = json.loads(data)
        if not isinstance(value, dict) or not isinstance(value.get("services"), list):
            raise ValueError("is no list of services")
        if value.get("schema") != SCHEMA:
            raise ValueError(f"is of schema {value.get('schema')!r}, and this Muster reads {SCHEMA}")
        return Snapshot(int(value["pid"]), tuple(service_of(each) for each in value["services"]))
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"is no list of services ({type(error).__name__}: {error})") from error


def service_value(service: Statistics) -> dict[str, Any]:
    """Return what JSON holds of one service."""
    value: dict[str, Any] = _written(_without_passwords(service))
    return value


def _without_passwords(service: Statistics) -> Statistics:
    return service._replace(replicas=tuple(each._replace(url=shown(each.url)) for each in service.replicas))


def _written(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return _written(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): _written(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_written(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def service_of(value: Mapping[str, Any]) -> Statistics:
    """Read one service. Raises ``ValueError``, ``TypeError`` or ``KeyError`` for what is none."""
    cost = value.get("cost")
    if isinstance(cost, dict):
        kinds = {name: _read(KindStatistics, kind) for name, kind in cost["kinds"].items()}
        gpus, replicas = _numbers(cost["gpus"]), _numbers(cost["replicas"])
        cost = _read(CostStatistics, cost, kinds=kinds, gpus=gpus, replicas=replicas)
    return _read(
        Statistics,
        value,
        fence=None if value["fence"] is None else tuple(value["fence"]),
        replicas=tuple(_replica(each) for each in value["replicas"]),
        tenants=tuple(_read(TenantStatistics, each) for each in value["tenants"]),
        cost=cost,
    )


def _replica(value: Mapping[str, Any]) -> ReplicaStatistics:
    budgets = {name: (held, whole) for name, (held, whole) in value["budgets"].items()}
    return _read(ReplicaStatistics, value, budgets=budgets)


def _read(kind: Callable[..., T], value: Mapping[str, Any], **read: Any) -> T:
    """Make one of the fields that it has; those that hold other such values are given, read."""
    fields: dict[str, Any] = {}
    defaults = getattr(kind, "_field_defaults", {})
    for name, expected in _hints(kind).items():
        if name in defaults and name not in value:
            continue  # an older process does not know it
        found = read[name] if name in read else value[name]
        if expected is float:
            found = _number(found)
        elif expected in {int, str, bool} and not isinstance(found, expected):
            raise ValueError(f"holds {name} = {found!r}")
        fields[name] = found
    return kind(**fields)


def _number(value: Any) -> float:
    return math.inf if value is None else float(value)


def _numbers(value: Mapping[str, Any]) -> dict[str, float]:
    return {name: _number(each) for name, each in value.items()}
