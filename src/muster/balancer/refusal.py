"""What it means when a replica's ingress refused a request without sending it, and for how long.

The ingress answers 503 with ``x-muster-refused`` and a reason. Nothing reached the container, so the request goes
elsewhere as if no connection had come about; but the replica has not failed, it only takes nothing now, and so its
health (``eject.py``) stays as it is.

* It takes no new requests (draining, ended, not started yet): nothing is sent to it until a newer set has it, which is
  the ordinary way back, or CLOSED_SECONDS have passed, for a route that reaches the ingress later than the set reaches
  us. 1 s: a set that lacks it comes within some tenths, and if none comes, one request a second and replica is lost.
* It holds as many requests as it may, those of other clients among them: nobody tells when one ends. A request of
  ``seconds`` and ``limit`` slots mean that one ends every ``seconds / limit``; it is asked again after ``FULL_PART`` of
  that, give or take half, so that clients which were refused together do not come back together. Simulated with 4
  clients at load 0.9 (``make sim``) half as long wins a point of goodput and costs half as many refusals again, twice
  as long loses two points. A request of ours that ends there frees a slot, and ends the rest.
* Its ingress cannot connect to it: the same as if we could not.

A reason that is not known here is one of a newer ingress; it gets the shorter rest.
"""

from muster.balancer.lease import Outcome
from muster.model.routes import Refusal

CLOSED_SECONDS = 1.0
FULL_PART = 0.7
SHORTEST_SECONDS = 0.005
LONGEST_SECONDS = 1.0

_MEANINGS = {
    Refusal.DRAINING: Outcome.CLOSED,
    Refusal.ENDED: Outcome.CLOSED,
    Refusal.NOT_STARTED: Outcome.CLOSED,
    Refusal.OVER_CAPACITY: Outcome.FULL,
    Refusal.UNREACHABLE: Outcome.UNREACHABLE,
}


def rest_seconds(outcome: Outcome, *, seconds: float, limit: int, chance: float) -> float:
    """Return how long a replica that refused is left alone; ``chance`` is drawn from 0 to 1."""
    if outcome is Outcome.CLOSED:
        return CLOSED_SECONDS
    rest = FULL_PART * (0.5 + chance) * seconds / limit
    return min(LONGEST_SECONDS, max(SHORTEST_SECONDS, rest))


def outcome_of(reason: str) -> Outcome:
    """Return what the value of an ingress's ``x-muster-refused`` says about the replica."""
    try:
        return _MEANINGS[Refusal(reason.strip().lower())]
    except ValueError:
        return Outcome.FULL
