"""What all connections of a listener have in common: whom they are for, what is allowed, and who is told.

``Limits`` are on connections and heads only. A request may take as long as it takes, and so may its answer: how long a
model computes, or how slowly somebody reads, is not the ingress's to judge.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from muster.ingress.gate import Gate

if TYPE_CHECKING:
    from muster.ingress.http.client import ClientSide

Resolve = Callable[[str], tuple[Gate, int] | None]
"""From the value of ``Host`` (empty if a client of HTTP/1.0 sent none) to whose container port is meant; ``None`` if
nobody's. In the layout of one port per address always the same."""
OnAnswer = Callable[[Gate | None, int, int, float], None]
"""Called once for every request that was answered or broken off: gate, container port, status and seconds from its head
to its last byte. Without a gate (and port 0) if it was never known who was meant. Status 0: no answer was begun."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a head, and how long without a whole one."""

    head_bytes: int = 64 * 1024
    head_fields: int = 256
    head_seconds: float = 10.0
    """From a head's first byte to its last."""
    idle_seconds: float = 75.0
    """Without a request. Above the 60 s for which many clients keep connections: better they close than we."""
    connect_seconds: float = 5.0
    """For a connection to a container. On one host or network that is a lost packet or three, or nobody there."""
    linger_seconds: float = 2.0
    """For what a client still sends after an answer that did not wait for it: closing at once could destroy the
    answer before it is read."""


def nobody(gate: Gate | None, container_port: int, status: int, seconds: float) -> None:
    """Take no notice of answers."""


@dataclass(slots=True)
class Guests:
    """Open connections, of one listener or of all."""

    connections: "set[ClientSide]" = field(default_factory=set)
    are_leaving: bool = False
    """Whether each is to end with the answer that is under way."""

    def send_off(self) -> None:
        """Have no further request on any: those without one end now, others with it, and their clients are told."""
        self.are_leaving = True
        for each in list(self.connections):
            if each.is_idle:
                each.close()


@dataclass(slots=True)
class Listening:
    """One listener's share."""

    resolve: Resolve
    limits: Limits = field(default_factory=Limits)
    on_answer: OnAnswer = nobody
    guests: Guests = field(default_factory=Guests)
