"""What both sides of the protocol have in common: its figures, and how a field is read.

Whatever a field is not is a ``BadFrame`` that says what would be right, and quotes the beginning of what it was.
"""

import math
from typing import Any

from muster.broker.frames import BadFrame
from muster.errors import InvalidSpec
from muster.model.endpoint import Endpoint, endpoint_from_wire

VERSION = 1
HEARTBEAT_SECONDS = 1.0
"""Who hears nothing for so long goes on without the other; both say something at least twice as often."""
SILENT_BEATS = 3
"""A client of which nothing was heard for so many heartbeats is gone, and its leases with it."""
START_SECONDS = 2.0
"""A grant that is not started by then goes back."""
MOST_TEXT = 256
MOST_HELD = 4096
"""Asks and leases that one connection can have at once; their numbers fit into a frame."""
HELD_PER_FRAME = 32
"""With an endpoint of some 400 bytes and sixteen features each they fit, too."""
MOST_TOLD = 1024
"""Endpoints that both sides remember on one connection; one more that is new, and both forget those before it."""
MOST_SAID = 1000
"""Characters of a text for people: it may quote what a client sent, which may fill a frame."""
LONGEST_SECONDS = 86400.0 * 30
"""A request that has lasted longer is taken to have lasted so long: what is learned of it is only ever a number."""
LONGEST_WAIT_SECONDS = 86400.0
SHORTEST_BEAT_SECONDS, LONGEST_BEAT_SECONDS = 0.05, 60.0

_SECRET = frozenset({"token"})

Message = dict[str, Any]


def read_endpoint(value: Any) -> Endpoint:
    """Read an endpoint, of the form that sets have. Raises ``BadFrame``."""
    try:
        return endpoint_from_wire(value)
    except (InvalidSpec, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFrame(f"not an endpoint: {error!r}") from error


def read_text(message: Message, name: str, default: str | None = None) -> str:
    """Read a short text. Raises ``BadFrame``, which does not quote a secret."""
    value = message.get(name, default)
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        quoted = "" if name in _SECRET else f" {shown(value)}"
        raise BadFrame(f"{message.get('type', 'held')}: {name}{quoted} is no text of at most {MOST_TEXT}")
    return value


def read_count(message: Message, name: str) -> int:
    """Read a whole number from 0. Raises ``BadFrame``."""
    value = message.get(name)
    if type(value) is not int or not 0 <= value < 2**63:
        raise BadFrame(f"{message.get('type', 'held')}: {name} {shown(value)} is no whole number from 0")
    return value


def read_count_if_told(message: Message, name: str) -> int | None:
    """Read a whole number from 0, ``None`` if it is not told. Raises ``BadFrame``."""
    return None if message.get(name) is None else read_count(message, name)


def read_seconds(message: Message, name: str, default: float | None = None) -> float:
    """Read a number of seconds, of either sign. Raises ``BadFrame``."""
    value = message.get(name, default)
    if value is None or not is_number(value):
        raise BadFrame(f"{message.get('type', 'held')}: {name} {shown(value)} is no number of seconds")
    return float(value)


def read_lasted(message: Message, name: str) -> float:
    """Read for how long something has lasted. Raises ``BadFrame``."""
    return min(max(0.0, read_seconds(message, name, 0.0)), LONGEST_SECONDS)


def is_number(value: Any) -> bool:
    """Return whether it is a finite number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def shown(value: Any) -> str:
    """Return the beginning of what somebody sent, for people."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
