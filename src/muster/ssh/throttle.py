"""How long whoever tries passwords waits for "no": pure counting, by container and by where they come from.

A container's password has 95 random bits, so nobody finds it; what is slowed down is the load and the noise of trying.
The first wrong passwords cost as much as a typing error may, further ones twice as much each, up to a bound that three
of in a row still fit into the time for a login. A right password is never kept waiting for others' wrong ones.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 8.0
_CHEAP = 3
"""So many wrong ones cost the least: what one call of OpenSSH asks for."""
_FORGET_SECONDS = 600.0
_LARGEST = 10_000
"""Places that are remembered; with more of them the oldest are forgotten, who then begin anew."""


@dataclass(slots=True)
class FailedLogins:
    """Wrong passwords of late, by container uuid and address; ``total`` is of all time."""

    total: int = 0
    _recent: OrderedDict[tuple[str, str], tuple[int, float]] = field(default_factory=OrderedDict)

    def note(self, container: str, address: str, now: float) -> float:
        """Count a wrong password; returns for how many seconds to keep the answer back. ``now`` is monotonic."""
        self.total += 1
        place = (container, address)
        count, at = self._recent.pop(place, (0, now))
        count = 1 if now - at > _FORGET_SECONDS else count + 1
        self._recent[place] = (count, now)
        if len(self._recent) > _LARGEST:
            self._recent.popitem(last=False)
        doublings = min(max(0, count - _CHEAP), 10)
        return min(LONGEST_SECONDS, FIRST_SECONDS * float(1 << doublings))

    def forget(self, container: str, address: str) -> None:
        """Begin anew for a place from which somebody got in."""
        self._recent.pop((container, address), None)
