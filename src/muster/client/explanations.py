"""Explanations, as methods of the client: why containers wait, where new ones would go, and what would help."""

import datetime
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from muster.client import wire
from muster.client.values import CommandWarning

Call = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Miss:
    """One rule that rejects the nearest machine, with the two values that it compared."""

    rule: str
    wanted: str
    offered: str


@dataclass(frozen=True, slots=True)
class Remedy:
    """One change after which it fits on ``machine_num`` machines.

    ``field`` is a field of ``container_template``, or ``blacklist``, or ``wait``; ``change`` are the fields to send
    instead, empty unless one of them helps.
    """

    field: str
    now: Any
    instead: Any
    text: str
    machine_num: int
    machine_id: str | None
    change: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why so many equal containers fit nowhere; ``rejected`` counts machines by rule and adds up to ``considered``."""

    container_num: int
    container_ids: tuple[str, ...]
    text: str
    considered: int
    rejected: Mapping[str, int]
    nearest_machine_id: str | None
    nearest_misses: tuple[Miss, ...]
    remedies: tuple[Remedy, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """Why a deployment is as it is; ``planned`` is the planner's view in a sentence."""

    deployment_uuid: str
    name: str
    status: str
    rollout: str
    failure: str
    text: str
    planned: str
    backoff_until: datetime.datetime | None
    placing_num: int
    unfit: tuple[Unfit, ...]


@dataclass(frozen=True, slots=True)
class WouldGo:
    """A machine that would get containers, with the GPU indices of each."""

    machine_id: str
    data_center: str
    gpu_name: str
    price_milliyuan: int
    containers: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class WouldBe:
    """What would become of a deployment if it were created now."""

    text: str
    container_num: int
    placed: tuple[WouldGo, ...]
    unfit: tuple[Unfit, ...]
    spec: Mapping[str, Any]
    warnings: tuple[CommandWarning, ...]


class Explanations:
    """Reached as ``client.explanations``."""

    def __init__(self, muster: Call) -> None:
        self._muster = muster

    def of(self, uuid: str) -> Explained:
        """Tell why a deployment's containers have no machine, and what would make them fit."""
        found = self._muster(
            "GET", f"/deployments/{urllib.parse.quote(uuid, safe='')}/explain", named=("deployment", uuid)
        )
        until = found["planned"]["backoff_until"]
        return Explained(
            deployment_uuid=found["deployment_uuid"],
            name=found["name"],
            status=found["status"],
            rollout=found["rollout"],
            failure=found["failure"],
            text=found["text"],
            planned=found["planned"]["text"],
            backoff_until=None if until is None else wire.time(until),
            placing_num=found["placing_num"],
            unfit=tuple(map(_unfit, found["unfit"])),
        )

    def of_new(self, body: Mapping[str, Any]) -> WouldBe:
        """Tell where the containers of a body for ``create_deployment`` would go; creates nothing."""
        found = self._muster("POST", "/explain", body)
        return WouldBe(
            text=found["text"],
            container_num=found["container_num"],
            placed=tuple(
                WouldGo(
                    machine_id=each["machine_id"],
                    data_center=each["data_center"],
                    gpu_name=each["gpu_name"],
                    price_milliyuan=each["price"],
                    containers=tuple(map(tuple, each["containers"])),
                )
                for each in found["placed"]
            ),
            unfit=tuple(map(_unfit, found["unfit"])),
            spec=found["spec"],
            warnings=tuple(CommandWarning(each["code"], each["message"]) for each in found["warnings"]),
        )


def _unfit(row: Mapping[str, Any]) -> Unfit:
    nearest = row["nearest"]
    misses = () if nearest is None else nearest["misses"]
    return Unfit(
        container_num=row["container_num"],
        container_ids=tuple(row["container_ids"]),
        text=row["text"],
        considered=row["considered"],
        rejected={each["rule"]: each["machine_num"] for each in row["rejected"]},
        nearest_machine_id=None if nearest is None else nearest["machine_id"],
        nearest_misses=tuple(Miss(each["rule"], each["wanted"], each["offered"]) for each in misses),
        remedies=tuple(
            Remedy(
                field=each["field"],
                now=each["now"],
                instead=each["instead"],
                text=each["text"],
                machine_num=each["machine_num"],
                machine_id=each["machine_id"],
                change=each["change"],
            )
            for each in row["remedies"]
        ),
    )
