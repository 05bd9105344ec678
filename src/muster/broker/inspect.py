"""Asks a broker about a service's queue, and takes requests out of it: one connection, one question, for people.

Several brokers may be named; of those that can be reached the one that serves the service answers. One that nobody had
asked about the service takes a second to know of its replicas, and is asked again until it does.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from muster.balancer.statistics import Statistics
from muster.balancer.statistics_json import service_of
from muster.broker import messages
from muster.broker.frames import BadFrame, FrameReader, frame
from muster.broker.link import CONNECT_SECONDS, open_streams, words
from muster.broker.messages import Bye, Hello, Message
from muster.errors import BrokerRefused, BrokerUnavailable
from muster.model.endpoint import ServiceKey
from muster.model.url import shown

ANSWER_SECONDS = 10.0
SETTLED_SECONDS = 3.0
"""A broker knows a set by then, if there is one."""
AGAIN_SECONDS = 0.1
MOST_FRAME_BYTES = 16 * 1024 * 1024
"""Of an answer: a thousand asks have a few hundred kilobytes."""


@dataclass(frozen=True, slots=True)
class Where:
    """A service, where its brokers are, whom their certificates are signed by, and the account's token for them."""

    urls: tuple[str, ...]
    ca_pem: str | None
    key: ServiceKey
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Waiting:
    """One ask that waits. ``seconds_left`` is until its deadline, ``cost_seconds`` what it is expected to take."""

    ask: int
    client: str
    tenant: str
    priority: int
    waited_seconds: float
    seconds_left: float
    cost_seconds: float


@dataclass(frozen=True, slots=True)
class Queue:
    """One service's queue. ``waiting`` is of the oldest only, ``waiting_num`` of all; ``value`` is what was told."""

    broker: str
    clients: int
    statistics: Statistics
    waiting: tuple[Waiting, ...]
    waiting_num: int
    value: Mapping[str, Any]


async def show(where: Where) -> Queue:
    """Return a service's queue. Raises ``BrokerUnavailable`` and ``BrokerRefused``."""
    until = time.monotonic() + SETTLED_SECONDS
    while (found := await _look(where)).statistics.fence is None and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(AGAIN_SECONDS)
    return found


async def _look(where: Where) -> Queue:
    url, found = await _asked(where, {"type": "show"}, "queue")
    try:
        waiting = tuple(
            Waiting(
                ask=int(each["ask"]),
                client=str(each["client"]),
                tenant=str(each["tenant"]),
                priority=int(each["priority"]),
                waited_seconds=float(each["waited"]),
                seconds_left=float(each["left"]),
                cost_seconds=float(each["cost"]),
            )
            for each in found["asks"]
        )
        statistics = service_of(found["statistics"])
        value = {name: each for name, each in found.items() if name != "type"}
        return Queue(url, int(found["clients"]), statistics, waiting, int(found["waiting"]), value)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BrokerUnavailable(f"what {shown(url)} tells of its queue is not understood: {error!r}") from error


async def evict(where: Where, conditions: Mapping[str, object]) -> int:
    """Take the asks that meet all ``conditions`` out of the queue; return how many. Raises as ``show`` does.

    ``ask`` (a number), ``tenant``, ``older_than`` (seconds), ``all``.
    """
    url, found = await _asked(where, {"type": "evict", **conditions}, "evicted")
    count = found.get("count")
    if not isinstance(count, int):
        raise BrokerUnavailable(f"{shown(url)} does not tell how many it took out of its queue")
    return count


async def _asked(where: Where, question: Message, kind: str) -> tuple[str, Message]:
    """Ask each in turn; return who answered, and what."""
    said: list[str] = []
    is_refused = False
    for url in where.urls:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await _ask_one(url, where, question, kind)
        except (OSError, TimeoutError) as error:
            said.append(f"{shown(url)} cannot be asked: {words(error)}")
        except (BadFrame, json.JSONDecodeError) as error:
            said.append(f"{shown(url)} does not answer as a broker does: {error}")
        else:
            if not isinstance(found, Bye):
                return url, found
            is_refused = is_refused or found.reason != "standby"
            said.append(f"{shown(url)} says {found.reason}: {found.message}")
    raise (BrokerRefused if is_refused else BrokerUnavailable)("; ".join(said) or "no broker is named")


async def _ask_one(url: str, where: Where, question: Message, kind: str) -> Message | Bye:
    hello = Hello(where.key, where.token, "muster queue", "inspect")
    async with asyncio.timeout(CONNECT_SECONDS):
        reader, writer = await open_streams(url, where.ca_pem)
    try:
        writer.write(frame(messages.hello(hello)) + frame(question))
        frames = FrameReader(MOST_FRAME_BYTES)
        while True:
            data = await reader.read(64 * 1024)
            if not data:
                raise ConnectionError("it ended the connection without an answer")
            for message in frames.feed(data):
                if message["type"] == kind:
                    return message
                if message["type"] == "bye":
                    return messages.read_bye(message)
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CONNECT_SECONDS):
                await writer.wait_closed()
