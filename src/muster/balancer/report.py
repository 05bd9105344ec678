"""What a replica's ingress says about its load in every answer, refusals among them.

``endpoint-load-metrics: TEXT application_utilization=0.5,named_metrics.in_flight=2,named_metrics.concurrency=4``: the
text form of ORCA (https://github.com/envoyproxy/envoy/issues/6614), see ``docs/ingress.md``. It counts the requests of
all clients, so it is how clients that know nothing of each other learn of each other.
"""

from typing import NamedTuple

LOAD_HEADER = "endpoint-load-metrics"


class LoadReport(NamedTuple):
    """``in_flight`` counts everybody's requests at the replica, ours among them, and the one that this answers.

    ``concurrency`` is the declared limit, ``None`` where none is.
    """

    in_flight: int
    concurrency: int | None


def load_of(text: str) -> LoadReport | None:
    """Read the header; ``None`` for anything that does not say how many requests there are: it is only a hint."""
    form, _, metrics = text.strip().partition(" ")
    if form.upper() != "TEXT":
        return None
    numbers = {}
    for pair in metrics.split(","):
        name, _, number = pair.strip().partition("=")
        if number.isascii() and number.isdigit() and len(number) < 10:
            numbers[name] = int(number)
    in_flight = numbers.get("named_metrics.in_flight")
    if in_flight is None:
        return None
    return LoadReport(in_flight, numbers.get("named_metrics.concurrency"))
