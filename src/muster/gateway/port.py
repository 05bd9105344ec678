"""What the two halves of the gateway tell each other: who decides about a request, and who carries it.

The data plane reads a head and asks the reception once; where the decision rests on the body (a route by ``model``),
it is told how much of it to hold, and asks again with it. From then on nothing is decided anew: a reload changes what
comes later. Whatever becomes of a request that was let in, the data plane calls ``Passage.leave`` once, and ``on_done``
once for every request that had a head, with a record for the log and the metrics.

All of it is of one event loop.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from muster.balancer.options import Options
from muster.balancer.waiting import Gate
from muster.errors import NoEndpoints
from muster.http1.request_head import RequestHead


@dataclass(frozen=True, slots=True)
class Passage:
    """One request that is let in. ``target`` is what goes on, rewritten; ``options`` are of the balancer.

    ``service`` is the name it was asked for by; ``gate`` is where it waits for a replica; ``key`` is the name of the
    API key, never the key. ``leave`` gives back what the key's limits count; ``dropped`` are header names, in lower
    case, that do not go on to the replica (the API key, options of the balancer).
    """

    service: str
    gate: Gate
    target: bytes
    options: Options
    leave: Callable[[], None]
    key: str = ""
    dropped: frozenset[bytes] = frozenset()
    most_body_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """One request that is not let in: an answer with ``{"error": {"message": error, …}, "reason": reason}``.

    ``retry_after_seconds`` becomes ``Retry-After``. ``key`` and ``service`` are for the log, as far as they are known.
    """

    status: int
    reason: str
    error: str
    retry_after_seconds: float | None = None
    key: str = ""
    service: str = ""
    lines: bytes = b""


@dataclass(frozen=True, slots=True)
class Told:
    """One question that the gateway answers itself, by JSON. ``reason`` says which, for the log and the metrics."""

    reason: str
    body: bytes
    key: str = ""
    service: ClassVar[str] = ""
    status: ClassVar[int] = 200
    retry_after_seconds: ClassVar[float | None] = None
    lines: ClassVar[bytes] = b""


@dataclass(frozen=True, slots=True)
class NeedsBody:
    """The body decides: hold up to ``most_bytes`` of it and ask again with it. More is ``refused`` (413)."""

    most_bytes: int
    refused: Refused


Answer = Refused | Told
Decision = Passage | Answer | NeedsBody


class UnknownService(NoEndpoints):
    """What ``gate`` raises for a name that nobody has: it was let in while that was being looked up (404)."""


@dataclass(slots=True)
class Record:
    """What became of one request, for the access log and the metrics. Seconds from its head to its last byte.

    ``status`` 0: the client went away before an answer began. ``reason`` is empty for an answer of the replica's own,
    or says why the gateway answered (``queue_full``, ``deadline``, ``unknown_key``, …) or broke off (``client_gone``,
    ``replica_broke``). ``replica`` answered last; ``attempts`` is how often it was sent.
    """

    peer: str
    method: str
    target: str
    service: str = ""
    key: str = ""
    tenant: str = ""
    status: int = 0
    reason: str = ""
    replica: str = ""
    attempts: int = 0
    queue_seconds: float = 0.0
    seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    is_upgraded: bool = False


class Reception(Protocol):
    """Decides about each request; never blocks, never raises for what a client sent."""

    def admit(self, head: RequestHead, peer: str, body: bytes | None, now: float) -> Decision:
        """Return what is to become of a request; ``now`` is of the loop's clock.

        ``body`` is ``None`` when it was not asked for; what was counted by then (a key's limits) is counted once.
        """
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a head, how long without one, and how much of a body is kept so that it can be sent again."""

    head_bytes: int = 64 * 1024
    head_fields: int = 256
    head_seconds: float = 10.0
    idle_seconds: float = 75.0
    connect_seconds: float = 5.0
    linger_seconds: float = 2.0
    replay_bytes: int = 256 * 1024
    """A prompt fits, and an image that is scaled for a model; what is larger is sent once."""
    body_seconds: float = 60.0
    """For a kilobyte of a body that is not all here, or for a client to take some of an answer: a slot is held then."""


@dataclass(slots=True)
class Hall:
    """What all connections of one process have in common; ``reception`` is replaced by a reload."""

    reception: Reception
    on_done: Callable[[Record], None]
    limits: Limits = field(default_factory=Limits)
    is_leaving: bool = False
    """Whether each connection is to end with the answer that is under way."""
