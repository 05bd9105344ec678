"""Who serves a service now: the set that discovery publishes and clients balance over.

An ``EndpointSet`` is complete and immutable; a newer one replaces it whole. It is fenced by ``(epoch, revision)``:
taking over publication raises the epoch, each change raises the revision, and whoever holds a set ignores one that is
not newer. An empty ``endpoints`` says *nobody serves*; a missing set says *unknown*, and the last one stays.

The JSON form is documented in ``docs/endpoint-set.md`` so that programs in other languages can read a registry.
"""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from muster.errors import InvalidSpec
from muster.model.deployment import PortProtocol

SCHEMA = 1

LARGEST_COUNT = 2**63 - 1
"""What the integers of most languages hold, and well within what can be divided by a float."""


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """Where a set is published: one per account, service (deployment uuid or an alias of it) and port."""

    account: str
    service: str
    port: int = 6006

    def __str__(self) -> str:
        return f"{self.account}/{self.service}/{self.port}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One ready container. ``id`` is its uuid: a container started anew is another endpoint."""

    id: str
    url: str
    protocol: PortProtocol = PortProtocol.HTTP
    data_center: str = ""
    gpu_name: str = ""
    gpu_num: int = 1
    concurrency: int | None = None
    budgets: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    started_at: datetime.datetime | None = None


@dataclass(frozen=True, slots=True)
class Withheld:
    """A container that is not in the set, and why not yet or no more: for people who wonder, never for balancing."""

    id: str
    reason: str
    """``starting``, ``not_ready`` or ``draining``."""


@dataclass(frozen=True, slots=True)
class EndpointSet:
    """Everybody who is ready to serve one service and is not draining, ordered by ``id``."""

    epoch: int
    revision: int
    endpoints: tuple[Endpoint, ...]
    published_at: datetime.datetime
    stale_since: datetime.datetime | None = None
    ca_pem: str | None = None
    broker_url: str | None = None
    withheld: tuple[Withheld, ...] = ()

    @property
    def fence(self) -> tuple[int, int]:
        """What orders sets of one key: a set replaces only those with a smaller fence."""
        return self.epoch, self.revision

    def to_json(self) -> str:
        """Return the documented form, one line."""
        return json.dumps(
            {
                "schema": SCHEMA,
                "epoch": self.epoch,
                "revision": self.revision,
                "endpoints": [endpoint_to_wire(endpoint) for endpoint in self.endpoints],
                "ca_pem": self.ca_pem,
                "broker_url": self.broker_url,
                "published_at": self.published_at.isoformat(),
                "stale_since": self.stale_since.isoformat() if self.stale_since else None,
                "withheld": [{"id": each.id, "reason": each.reason} for each in self.withheld],
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the documented form; unknown keys are ignored.

        Raises ``InvalidSpec`` for anything that is not a set, or is one of a newer schema.
        """
        try:
            wire = json.loads(text)
            schema = wire["schema"]
            if schema > SCHEMA:
                raise InvalidSpec("schema", f"{schema} is newer than {SCHEMA}: upgrade muster")
            return cls(
                epoch=int(wire["epoch"]),
                revision=int(wire["revision"]),
                endpoints=tuple(endpoint_from_wire(each) for each in wire["endpoints"]),
                published_at=datetime.datetime.fromisoformat(wire["published_at"]),
                stale_since=_time(wire.get("stale_since")),
                ca_pem=None if wire.get("ca_pem") is None else _text("ca_pem", wire["ca_pem"]),
                broker_url=None if wire.get("broker_url") is None else _text("broker_url", wire["broker_url"]),
                withheld=tuple(Withheld(str(each["id"]), str(each["reason"])) for each in wire.get("withheld", ())),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InvalidSpec("endpoint set", f"is not one of ours: {error!r}") from error


def endpoint_to_wire(endpoint: Endpoint) -> dict[str, Any]:
    """Return the documented form of one endpoint."""
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "protocol": endpoint.protocol.value,
        "data_center": endpoint.data_center,
        "gpu_name": endpoint.gpu_name,
        "gpu_num": endpoint.gpu_num,
        "concurrency": endpoint.concurrency,
        "budgets": dict(endpoint.budgets),
        "started_at": endpoint.started_at.isoformat() if endpoint.started_at else None,
    }


def endpoint_from_wire(wire: Mapping[str, Any]) -> Endpoint:
    """Read the documented form.

    Raises ``InvalidSpec`` for a value that would break whoever balances over it, and whatever any other wrong one
    provokes: whoever calls it says what it was part of.
    """
    concurrency = wire.get("concurrency")
    return Endpoint(
        id=str(wire["id"]),
        url=_text("endpoints.url", wire["url"]),
        protocol=PortProtocol(wire.get("protocol", "http")),
        data_center=_text("endpoints.data_center", wire.get("data_center", "")),
        gpu_name=_text("endpoints.gpu_name", wire.get("gpu_name", "")),
        gpu_num=_count("endpoints.gpu_num", wire.get("gpu_num", 1), least=0),
        concurrency=None if concurrency is None else _count("endpoints.concurrency", concurrency, least=1),
        budgets=MappingProxyType(
            {name: _count(f"endpoints.budgets.{name}", whole) for name, whole in wire.get("budgets", {}).items()}
        ),
        started_at=_time(wire.get("started_at")),
    )


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidSpec(name, f"{value!r} is no text")
    return value


def _count(name: str, value: object, *, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST_COUNT:
        raise InvalidSpec(name, f"{value!r} is no whole number from {least} to {LARGEST_COUNT}")
    return value


def _time(text: str | None) -> datetime.datetime | None:
    return None if text is None else datetime.datetime.fromisoformat(text)
