"""What discovery reads: who is ready now, and which service changed since.

Stated for implementers. ``services`` is the truth at one moment, with the cursor of that moment. That moment lies after
the call began: who publishes the answer has just made sure that nobody published anything newer, so nothing older may
be kept for it. ``changes`` then yields batches of deployments of which something changed after a cursor, with the
cursor to resume from; batches carry no data on purpose, so that a repeated, merged or reordered one does no harm: the
reader asks for ``service`` again.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from muster.model.endpoint import Endpoint, ServiceKey, Withheld
from muster.model.event import Cursor
from muster.model.ids import DeploymentId


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One deployment as discovery sees it: its sets by key, and the names that should point at it.

    ``aliases`` maps each alias that the deployment's name gives to the key it should stand for now: that of the
    account's oldest live deployment of the name, which may be another one, or ``None`` when there is none left.
    A deployment that is gone has empty sets, or none. ``withheld`` says of its other containers why they are not
    in a set; ``ca_pem`` is the authority of the endpoints' certificates, ``None`` where clients know it already.
    """

    deployment_id: DeploymentId
    endpoints: Mapping[ServiceKey, tuple[Endpoint, ...]]
    aliases: Mapping[ServiceKey, ServiceKey | None]
    withheld: Mapping[ServiceKey, tuple[Withheld, ...]] = field(default_factory=dict)
    ca_pem: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """Every live deployment, and the cursor from which to watch for what comes after."""

    services: Sequence[ServiceState]
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """Deployments that changed, and the cursor after the last of those changes."""

    deployments: frozenset[DeploymentId]
    cursor: Cursor


class Feed(Protocol):
    """A source of truth about ready containers. Raises ``FeedError`` when it cannot be read."""

    async def services(self) -> Listing:
        """Return all live deployments."""
        ...

    async def service(self, deployment_id: DeploymentId) -> ServiceState | None:
        """Return one deployment as it is now, also when it is stopped or deleted (then its sets are empty).

        What it says was true after the call began. ``None``: it lives, but this feed was not asked to follow it.
        """
        ...

    def changes(self, cursor: Cursor) -> AsyncIterator[ChangeBatch]:
        """Yield batches after ``cursor`` for ever; waits while there is none.

        Raises ``CursorExpired`` when events after the cursor have been pruned: call ``services`` again.
        """
        ...
