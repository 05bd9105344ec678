"""Whoever is avoided is not learned about; so now and then a small request goes where it would not go by itself.

* A replica that has not answered for ``UNSEEN_SECONDS`` gets one: other clients, or the time of day, may have been why
  it was slow.
* Of ``PROBED_EVERY`` requests one goes to a replica that is thought to be clearly slower than others of its own kind:
  it had a bad time, and that may be over. Replicas of a kind that is slow as a whole are what they seem.

Only requests that are not larger than the average and have no deadline are sent out, and only to replicas that hold
none.
"""

from collections.abc import Callable, Iterable, Sequence

from muster.balancer.replica import Replica

UNSEEN_SECONDS = 30.0
PROBED_EVERY = 24
SUSPICIOUS = 1.25


class Exploration:
    """``kind_slowness`` is what is known of a GPU model as a whole."""

    def __init__(self, kind_slowness: Callable[[str], float]) -> None:
        self._kind_slowness = kind_slowness
        self._due: set[Replica] = set()
        self._asked = 0

    def look(self, serving: Iterable[Replica], now: float) -> None:
        """Find who has not been seen for long. To be called every second or so."""
        self._due = {
            each for each in serving if each.answers and now - max(each.answered_at, each.probed_at) > UNSEEN_SECONDS
        }

    def pick(self, candidates: Sequence[Replica], now: float) -> Replica | None:
        """Return where the next small request is to go to learn something; mostly nowhere in particular."""
        self._asked += 1
        is_turn = self._asked % PROBED_EVERY == 0
        if not is_turn and not self._due:
            return None
        idle = [each for each in candidates if not each.in_flight]
        found = [each for each in idle if each in self._due or (is_turn and self._is_odd(each))]
        chosen = min(found, key=_last_seen, default=None)
        if chosen is not None:
            self._due.discard(chosen)
            chosen.probed_at = now  # it may never answer
        return chosen

    def _is_odd(self, replica: Replica) -> bool:
        return replica.answers > 0 and replica.slowness > SUSPICIOUS * self._kind_slowness(replica.gpu)


def _last_seen(replica: Replica) -> tuple[float, str]:
    return max(replica.answered_at, replica.probed_at), replica.endpoint.id
