"""What a request wants of the balancer, beyond a replica: its size, its memory, its urgency, whose it is.

All of it is optional, and a request that says nothing is served as an average one. Values that are wrong (not a
number, NaN, a list) are refused before anything is sent, because a caller that computes nonsense wants to know; names
that nobody has used before are not, because callers are upgraded one at a time (``cost.py`` learns them apart).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeGuard

from muster.errors import InvalidAsk

MOST_FEATURES = 16
"""More names are a mistake (a text used as a name), and what is learned per name would be noise."""

Features = Mapping[str, float]
Demands = Mapping[str, int]

_NO_DEMANDS: Demands = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Ask:
    """``answer_by`` is an instant of the balancer's clock at which an answer is worth nothing any more.

    ``demands`` are amounts of the replicas' budgets (``{"vram_mb": 3000}``) that the request holds while it runs. Of
    two that wait the higher ``priority`` goes first; ``tenant`` is whose share it takes; requests of one ``affinity``
    go to one replica as long as that is not much busier than the others.
    """

    features: Features | None = None
    demands: Demands = field(default_factory=lambda: _NO_DEMANDS)
    priority: int = 0
    tenant: str = ""
    affinity: str = ""
    answer_by: float = math.inf


NOTHING_SAID = Ask()


def ask_from(options: Mapping[str, Any], now: float) -> Ask:
    """Read ``features``, ``demands``, ``priority``, ``tenant``, ``affinity`` and ``deadline`` (seconds from now).

    Other keys are left alone. Raises ``InvalidAsk``.
    """
    if not options:
        return NOTHING_SAID
    deadline = seconds_of("deadline", options.get("deadline"), default=math.inf)
    return Ask(
        features=features_of(options.get("features")),
        demands=demands_of(options.get("demands")),
        priority=_priority(options.get("priority")),
        tenant=_text("tenant", options.get("tenant")),
        affinity=_text("affinity", options.get("affinity")),
        answer_by=now + deadline,
    )


def features_of(value: object) -> Features | None:
    """Return features as floats, ``None`` for none. Raises ``InvalidAsk``."""
    if value is None:
        return None
    pairs = _pairs("features", value, "give one number for each name, as in {'pixels': 1048576, 'steps': 30}")
    if len(pairs) > MOST_FEATURES:
        raise InvalidAsk("features", f"has {len(pairs)} names, more than {MOST_FEATURES}: leave out what says little")
    features = {}
    for name, number in pairs.items():
        if not isinstance(number, (int, float)):
            raise InvalidAsk(f"features.{name}", f"{number!r} is a {type(number).__name__}, not a number")
        try:
            features[name] = float(number)
        except OverflowError:
            features[name] = math.inf
        if not math.isfinite(features[name]):
            raise InvalidAsk(f"features.{name}", f"{number!r} is not finite: leave the feature out where it is unknown")
    return features or None


def demands_of(value: object) -> Demands:
    """Return amounts of budgets as integers. Raises ``InvalidAsk``."""
    if value is None:
        return _NO_DEMANDS
    pairs = _pairs("demands", value, "give an amount for each budget, as in {'vram_mb': 3000}")
    demands = {}
    for name, amount in pairs.items():
        if not _is_number(amount) or not 0 <= amount < math.inf:
            raise InvalidAsk(f"demands.{name}", f"{amount!r} is not an amount: a number ≥ 0, in the budget's own unit")
        demands[name] = math.ceil(amount)
    return demands


def seconds_of(name: str, value: object, *, default: float) -> float:
    """Return a number of seconds, ``default`` for ``None``. Raises ``InvalidAsk``."""
    if value is None:
        return default
    if not _is_number(value):
        raise InvalidAsk(name, f"{value!r} is not a number of seconds")
    return value


def _is_number(value: object) -> TypeGuard[float]:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    except OverflowError:  # an integer of more digits than anything is computed with
        return False


def _pairs(name: str, value: object, advice: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidAsk(name, f"is a {type(value).__name__}: {advice}")
    for key in value:
        if not isinstance(key, str) or not key:
            raise InvalidAsk(name, f"{key!r} is no name: {advice}")
    return value


def _priority(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidAsk("priority", f"{value!r} is not a whole number; higher goes first, 0 is usual")
    return value


def _text(name: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidAsk(name, f"{value!r} is a {type(value).__name__}, not a text")
    return value
