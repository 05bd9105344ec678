"""What a client says to its broker: builders for the client, checked readers for the broker."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from muster.balancer.ask import Ask, ask_from
from muster.balancer.lease import Outcome
from muster.broker.frames import BadFrame
from muster.broker.protocol import (
    LONGEST_WAIT_SECONDS,
    MOST_HELD,
    VERSION,
    Message,
    is_number,
    read_count,
    read_count_if_told,
    read_endpoint,
    read_lasted,
    read_seconds,
    read_text,
    shown,
)
from muster.errors import InvalidAsk
from muster.model.endpoint import Endpoint, ServiceKey, endpoint_to_wire


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that a client has from elsewhere: from before, from another broker, or given by itself.

    ``seconds`` is since when; ``limit`` is how many the client has found to be good there at once, where the replica
    declares no concurrency.
    """

    id: int
    endpoint: Endpoint
    ask: Ask
    seconds: float = 0.0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message. ``client`` is for people; ``purpose`` is ``balance``, or ``inspect`` to look and to cancel.

    ``concurrency`` is how many requests a replica may have that declares no limit, where the client's caller says so.
    """

    key: ServiceKey
    token: str = field(repr=False)
    client: str = ""
    purpose: str = "balance"
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """An ask. ``wait_seconds`` bounds the wait for a grant, ``waited_seconds`` is how long the call has lasted.

    ``is_kept``: it has waited elsewhere, or had a grant, and a queue that is full is no reason to lose it.
    """

    id: int
    ask: Ask
    wait_seconds: float
    waited_seconds: float = 0.0
    tried: frozenset[str] = frozenset()
    is_new: bool = True
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a lease."""

    id: int
    outcome: Outcome
    costs: Mapping[str, float]


def hello(asked: Hello) -> Message:
    """Introduce oneself. The token is in it: over TLS, or on one host."""
    message: Message = {
        "type": "hello",
        "version": VERSION,
        "token": asked.token,
        "account": asked.key.account,
        "service": asked.key.service,
        "port": asked.key.port,
        "client": asked.client,
        "purpose": asked.purpose,
    }
    if asked.concurrency is not None:
        message["concurrency"] = asked.concurrency
    return message


def hold(held: Iterable[Held]) -> Message:
    """Tell of leases that the broker did not give: they take slots, whatever it thinks of that."""
    return {"type": "hold", "leases": [_held_value(each) for each in held]}


def ask(wanted: Wanted, now: float) -> Message:
    """Ask for a slot; ``now`` is of the clock that ``answer_by`` is of."""
    within = min(max(0.0, wanted.wait_seconds), LONGEST_WAIT_SECONDS)
    message: Message = {"type": "ask", "id": wanted.id, "within": within, **_said(wanted.ask, now)}
    if wanted.waited_seconds > 0.001:
        message["waited"] = wanted.waited_seconds
    if wanted.tried:
        message["tried"] = sorted(wanted.tried)
    if not wanted.is_new:
        message["again"] = True
    if wanted.is_kept:
        message["kept"] = True
    return message


def start(ask_id: int) -> Message:
    """Say that the request is being sent."""
    return {"type": "start", "id": ask_id}


def heard(ask_id: int, in_flight: int | None = None) -> Message:
    """Say that the replica answers, although the request goes on, and what its ingress counts of everybody's."""
    message: Message = {"type": "heard", "id": ask_id}
    if in_flight is not None:
        message["in_flight"] = in_flight
    return message


def report(ask_id: int, outcome: Outcome, costs: Mapping[str, float] | None = None) -> Message:
    """End a lease, or give a grant back unused; ``costs`` are what it took of budgets."""
    message: Message = {"type": "report", "id": ask_id, "outcome": outcome.value}
    if costs:
        message["costs"] = dict(costs)
    return message


def cancel(ask_id: int) -> Message:
    """Wait no more."""
    return {"type": "cancel", "id": ask_id}


def beat(held: Collection[int]) -> Message:
    """Say that one lives, and name all leases that were started and are held: any other that was started is over."""
    return {"type": "heartbeat", "held": list(held)}


def read_hello(message: Message) -> Hello:
    """Read a client's first message. Raises ``BadFrame``, with the reason ``newer_version`` for one of those."""
    if message["type"] != "hello":
        raise BadFrame(f"the first message is {shown(message['type'])}, not hello")
    version = read_count(message, "version")
    if version != VERSION:
        raise BadFrame(
            f"the client speaks version {version} of the protocol, and this broker version {VERSION}: "
            f"upgrade the {'broker' if version > VERSION else 'client'}",
            "newer_version" if version > VERSION else "older_version",
        )
    purpose = read_text(message, "purpose", "balance")
    if purpose not in {"balance", "inspect"}:
        raise BadFrame(f"hello: purpose {purpose!r} is neither balance nor inspect")
    return Hello(
        key=ServiceKey(read_text(message, "account"), read_text(message, "service"), read_count(message, "port")),
        token=read_text(message, "token", ""),
        client=read_text(message, "client", ""),
        purpose=purpose,
        concurrency=read_count_if_told(message, "concurrency"),
    )


def read_hold(message: Message) -> list[Held]:
    """Read which leases a client has from elsewhere. Raises ``BadFrame``."""
    leases = message.get("leases")
    if not isinstance(leases, list):
        raise BadFrame("hold: leases are no list")
    return [_held(each) for each in leases]


def read_ask(message: Message, now: float) -> Wanted:
    """Read an ask. Raises ``InvalidAsk`` for what is wrong with the request, ``BadFrame`` for anything else."""
    tried = message.get("tried", [])
    if not isinstance(tried, list) or not all(isinstance(each, str) for each in tried):
        raise BadFrame("ask: tried is no list of endpoint ids")
    return Wanted(
        id=read_count(message, "id"),
        ask=_read_said(message, now),
        wait_seconds=min(read_seconds(message, "within"), LONGEST_WAIT_SECONDS),
        waited_seconds=read_lasted(message, "waited"),
        tried=frozenset(tried),
        is_new=message.get("again") is not True,
        is_kept=message.get("kept") is True,
    )


def read_report(message: Message) -> Report:
    """Read the end of a lease. Raises ``BadFrame``."""
    try:
        outcome = Outcome(message.get("outcome"))
    except ValueError:
        raise BadFrame(f"report: outcome {shown(message.get('outcome'))} is none") from None
    costs = message.get("costs", {})
    if not (isinstance(costs, dict) and all(map(is_number, costs.values()))):
        raise BadFrame("report: costs are no numbers")
    return Report(read_count(message, "id"), outcome, costs)


def read_heard(message: Message) -> tuple[int, int | None]:
    """Read which request is being answered, and what its replica's ingress counts. Raises ``BadFrame``."""
    return read_count(message, "id"), read_count_if_told(message, "in_flight")


def read_id(message: Message) -> int:
    """Read which ask ``start`` and ``cancel`` are about."""
    return read_count(message, "id")


def read_beat(message: Message) -> frozenset[int]:
    """Read which leases a client holds. Raises ``BadFrame``."""
    held = message.get("held")
    if not isinstance(held, list) or len(held) > MOST_HELD or not all(type(each) is int for each in held):
        raise BadFrame(f"heartbeat: held is no list of at most {MOST_HELD} numbers")
    return frozenset(held)


def _said(said: Ask, now: float) -> Message:
    """Return what a request says of itself, without what it does not say."""
    message: Message = {}
    if said.features is not None:
        message["features"] = dict(said.features)
    if said.demands:
        message["demands"] = dict(said.demands)
    if said.priority:
        message["priority"] = said.priority
    if said.tenant:
        message["tenant"] = said.tenant
    if said.affinity:
        message["affinity"] = said.affinity
    if said.answer_by < math.inf:
        message["deadline"] = said.answer_by - now
    return message


def _read_said(message: Message, now: float) -> Ask:
    return ask_from(message, now)


def _held_value(held: Held) -> Message:
    value: Message = {"id": held.id, "seconds": held.seconds, "endpoint": endpoint_to_wire(held.endpoint)}
    if held.limit is not None:
        value["limit"] = held.limit
    return value | _said(held.ask, 0.0)


def _held(value: Any) -> Held:
    if not isinstance(value, dict):
        raise BadFrame("hold: a lease is no object")
    try:
        said = _read_said(value, 0.0)
    except InvalidAsk as error:
        raise BadFrame(f"hold: {error}") from error
    return Held(
        id=read_count(value, "id"),
        endpoint=read_endpoint(value.get("endpoint")),
        ask=said,
        seconds=read_lasted(value, "seconds"),
        limit=read_count_if_told(value, "limit"),
    )
