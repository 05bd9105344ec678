"""One recorded transition of a container, and a place in the order of all of them.

Events are appended in the transaction that writes the change they record, so their order is the order of the world
and a cursor (the id of the last event seen) never skips one. ``STATUS`` events carry the lifecycle and are what the
AutoDL API lists; the other kinds are ours and only our stream shows them.
"""

import datetime
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from muster.model.container import ContainerStatus, Reason
from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId

Cursor = NewType("Cursor", int)
"""The id of the last event seen; 0 is before the first."""


class EventKind(StrEnum):
    """What changed."""

    STATUS = "status"
    READY = "ready"
    UNREADY = "unready"
    PULL = "pull"
    """How far the image is, in words; at most a few per pull."""
    DRAIN = "drain"
    """How far the drain of a container that is to stop has come, in words."""
    ADDRESS = "address"
    """A container got other ports of the ingress than it had; the message says why."""
    ALARM = "alarm"
    """Something that a person should look at, such as many machines that vanished together; the message says what."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that is not yet in the log: the store adds its id."""

    account_id: AccountId
    deployment_id: DeploymentId
    container_id: ContainerId
    container_uuid: ContainerUuid
    kind: EventKind
    status: ContainerStatus
    created_at: datetime.datetime
    reason: Reason | None = None
    message: str = ""
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Event(NewEvent):
    """An event in the log. ``id`` ascends with the order of commits."""

    id: int = 0
