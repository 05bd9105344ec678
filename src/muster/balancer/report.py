"""What a replica says about itself in every answer, refusals among them.

``endpoint-load-metrics: TEXT named_metrics.in_flight=2,named_metrics.concurrency=4,request_cost.vram_mb=3100``: the
text form of ORCA (https://github.com/envoyproxy/envoy/issues/6614), see ``docs/ingress.md``. Load is written by the
ingress and counts the requests of all clients, so it is how clients that know nothing of each other learn of each
other. Costs are written by the container, and say what this one request took of a budget.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

LOAD_HEADER = "endpoint-load-metrics"
_COST = "request_cost."
_NO_COSTS: Mapping[str, float] = MappingProxyType({})


class LoadReport(NamedTuple):
    """``in_flight`` counts everybody's requests at the replica, ours among them, and the one that this answers.

    ``concurrency`` is the declared limit, ``None`` where none is. ``costs`` maps budgets to what this request took.
    """

    in_flight: int | None
    concurrency: int | None = None
    costs: Mapping[str, float] = _NO_COSTS


def load_of(text: str) -> LoadReport | None:
    """Read the header; ``None`` for anything that says nothing of use: it is only a hint."""
    form, _, metrics = text.strip().partition(" ")
    if form.upper() != "TEXT":
        return None
    counts: dict[str, int] = {}
    costs: dict[str, float] = {}
    for pair in metrics.split(","):
        name, _, number = pair.strip().partition("=")
        if name.startswith(_COST):
            cost = _amount(number)
            if cost is not None:
                costs[name.removeprefix(_COST)] = cost
        elif number.isascii() and number.isdigit() and len(number) < 10:
            counts[name] = int(number)
    in_flight = counts.get("named_metrics.in_flight")
    if in_flight is None and not costs:
        return None
    return LoadReport(in_flight, counts.get("named_metrics.concurrency"), costs or _NO_COSTS)


def _amount(text: str) -> float | None:
    try:
        amount = float(text)
    except ValueError:
        return None
    return amount if math.isfinite(amount) and amount >= 0.0 else None
