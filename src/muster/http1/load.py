"""The load of a container port as one header value, in the text form of ORCA (Open Request Cost Aggregation).

``TEXT named_metrics.in_flight=2,named_metrics.concurrency=4,application_utilization=0.5``, followed by what the
container itself told in the same form, which may not say again what the ingress knows. In flight is counted when the
head of the answer passes, so it holds the answered request itself: that one is over only with its last byte.
"""

import re

_PAIR = re.compile(rb"[A-Za-z0-9_.\-]+=[0-9eE+.\-]+")
_OURS = frozenset([b"named_metrics.in_flight", b"named_metrics.concurrency"])


def load_text(in_flight: int, concurrency: int | None, theirs: bytes = b"") -> bytes:
    """Return the value of ``LOAD_HEADER``; ``theirs`` are a container's own pairs, as ``own_pairs`` found them."""
    ours = b"TEXT named_metrics.in_flight=%d" % in_flight
    if concurrency is not None:
        utilization = in_flight / max(1, concurrency)
        ours += b",named_metrics.concurrency=%d,application_utilization=%.4g" % (concurrency, utilization)
    if not theirs:
        return ours
    known = _OURS if concurrency is None else _OURS | {b"application_utilization"}
    kept = [pair for pair in theirs.split(b",") if pair.partition(b"=")[0] not in known]
    return b",".join([ours, *kept])


def own_pairs(value: bytes) -> bytes:
    """Return the pairs of a container's own header; nothing of another form, or of what is no number."""
    kind, _, pairs = value.strip().partition(b" ")
    if kind.upper() != b"TEXT":
        return b""
    found = (pair.strip() for pair in pairs.split(b","))
    return b",".join(pair for pair in found if _PAIR.fullmatch(pair))
