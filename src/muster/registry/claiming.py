"""The rule by which a key changes hands; pure, for registries that can run it where they keep the claims."""

from collections.abc import Collection

from muster.model.endpoint import EndpointSet
from muster.registry.port import Claim


def claimed(
    present: Claim | None, stored: EndpointSet | None, publisher: str, *, over: Collection[str], floor: int
) -> Claim:
    """Return whose the key is after ``publisher`` asked for it, having ``over`` for dead."""
    if present is not None and present.publisher != publisher and present.publisher not in over:
        return present
    above = max(0 if present is None else present.epoch, 0 if stored is None else stored.epoch)
    return Claim(publisher, max(floor, above + 1))
