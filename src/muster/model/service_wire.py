"""A deployment as discovery sees it, as JSON: what our API says and a watcher elsewhere reads. Both ends, and pure.

In: a ``ServiceState``, or JSON made of one. Out: the other. The account and the authority of the certificates are the
same for all services of an answer, so the answer holds them once. Endpoints have the form of ``docs/endpoint-set.md``.
"""

from collections.abc import Mapping
from typing import Any

from muster.errors import InvalidSpec
from muster.model.endpoint import ServiceKey, Withheld, endpoint_from_wire, endpoint_to_wire
from muster.model.feed import ServiceState
from muster.model.ids import DeploymentId


def service_to_wire(state: ServiceState) -> dict[str, Any]:
    """Return what a state says, without its account and authority."""
    return {
        "deployment_uuid": state.deployment_id,
        "name": name_of(state),
        "sets": [
            {
                "port": key.port,
                "endpoints": [endpoint_to_wire(each) for each in endpoints],
                "withheld": [{"id": each.id, "reason": each.reason} for each in state.withheld.get(key, ())],
            }
            for key, endpoints in state.endpoints.items()
        ],
        "aliases": [
            {"name": alias.service, "port": alias.port, "target": None if target is None else target.service}
            for alias, target in state.aliases.items()
        ],
    }


def service_from_wire(wire: Any, *, account: str, ca_pem: str | None) -> ServiceState:
    """Read one service of an answer; unknown keys are ignored. Raises ``InvalidSpec`` for what is none."""
    try:
        uuid = str(wire["deployment_uuid"])
        sets: Mapping[ServiceKey, Any] = {ServiceKey(account, uuid, int(each["port"])): each for each in wire["sets"]}
        return ServiceState(
            deployment_id=DeploymentId(uuid),
            endpoints={key: tuple(map(endpoint_from_wire, each["endpoints"])) for key, each in sets.items()},
            aliases={
                ServiceKey(account, str(each["name"]), int(each["port"])): (
                    None if each["target"] is None else ServiceKey(account, str(each["target"]), int(each["port"]))
                )
                for each in wire["aliases"]
            },
            withheld={
                key: tuple(Withheld(str(each["id"]), str(each["reason"])) for each in found["withheld"])
                for key, found in sets.items()
            },
            ca_pem=ca_pem,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidSpec("service", f"is not one of ours: {error!r}") from error


def name_of(state: ServiceState) -> str:
    """Return the name of the deployment; empty for one that is not known."""
    return next((alias.service for alias in state.aliases), "")
