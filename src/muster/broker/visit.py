"""Who is connected to a desk, what each asks and holds: the records of ``desk.py``, which alone changes them."""

import math
from dataclasses import dataclass, field
from typing import Protocol

from muster.balancer.ask import Ask
from muster.balancer.lease import Lease
from muster.balancer.ticket import Ticket
from muster.broker.messages import Message
from muster.model.endpoint import Endpoint


class Visitor(Protocol):
    """One connection, as the desk sees it."""

    def send(self, message: Message) -> None:
        """Send a message, some time soon, in order."""
        ...

    def close(self) -> None:
        """Take leave after what was sent."""
        ...


@dataclass(eq=False, slots=True)
class Asked:
    """An ask that waits. ``number`` is the desk's own, for people."""

    visit: "Visit"
    id: int
    number: int
    ticket: Ticket

    @property
    def is_waiting(self) -> bool:
        """Whether nobody has answered it, and nobody has taken it back."""
        return self.visit.asked.get(self.id) is self


@dataclass(eq=False, slots=True)
class Given:
    """A lease that is out."""

    visit: "Visit"
    id: int
    lease: Lease
    ask: Ask
    is_started: bool
    is_over: bool = False


@dataclass(eq=False, slots=True)
class Visit:
    """One visitor: what it asks, what it holds, and which grants were taken back from it lately.

    It may have started one of the latter before it heard of that. It has heard when it answers a pulse that went out
    after ``returned``, so what was ``late`` at one of its heartbeats is ``later`` until the next, and then forgotten.
    """

    visitor: Visitor
    client: str
    concurrency: int | None = None
    asked: dict[int, Asked] = field(default_factory=dict)
    given: dict[int, Given] = field(default_factory=dict)
    late: dict[int, Given] = field(default_factory=dict)
    later: dict[int, Given] = field(default_factory=dict)
    never_started: int = 0
    heard_at: float = -math.inf
    is_welcome: bool = False
    told: dict[str, Endpoint] = field(default_factory=dict)
