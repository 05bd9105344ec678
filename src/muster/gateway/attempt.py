"""What an answer or a break says about a replica, and whether the request may go to another one. No I/O.

The rules are those of ``balancer/call.py``, read from heads instead of from httpx:

* Not connected, or refused by the replica's ingress (503 with ``x-muster-refused``): nothing was sent, so it goes
  elsewhere, as often as it takes until its time is over.
* Broken after it was sent, no HTTP, or the ingress got no answer (502 or 504 with ``x-muster-error``): it goes
  elsewhere only if it is idempotent, at most ``resends`` times, and for a token of the service's retry budget.
* In all cases only if what was sent of its body is still here (``upload.py``).
* Anything else is an answer.

Whoever cannot connect to one replica twice pauses, longer each time.
"""

from collections import Counter
from collections.abc import Callable
from enum import Enum

from muster.balancer.call import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, SAFE_METHODS
from muster.balancer.lease import Outcome
from muster.balancer.options import Options
from muster.balancer.refusal import outcome_of
from muster.http1.response_head import ResponseHead

_SAFE = frozenset(method.encode() for method in SAFE_METHODS)


class Break(Enum):
    """How a send ended that brought no answer."""

    UNREACHABLE = "no connection came about"
    BROKEN = "the connection broke, or what came is no HTTP"
    TIMED_OUT = "nothing came in time"


_MEANINGS = {
    Break.UNREACHABLE: Outcome.UNREACHABLE,
    Break.BROKEN: Outcome.ERROR,
    Break.TIMED_OUT: Outcome.TIMED_OUT,
}


class Attempts:
    """All sends of one request, as far as they matter for the next one."""

    __slots__ = ("_resends_left", "_rounds", "_unreached", "is_idempotent", "last_break", "refusal", "sends", "tried")

    def __init__(self, method: bytes, options: Options) -> None:
        said = options.is_idempotent
        self.is_idempotent = method in _SAFE if said is None else said
        self.sends = 0
        self.tried: frozenset[str] = frozenset()
        self.last_break: Break | None = None
        self.refusal = ""
        """Why the ingress sent nothing, the last time."""
        self._resends_left = options.resends
        self._unreached: Counter[str] | None = None
        self._rounds = 0

    @property
    def is_wanting(self) -> bool:
        """Whether the last send brought nothing that a client should get if there is another way."""
        return self.last_break is not None or bool(self.refusal)

    def broke(self, replica: str, how: Break) -> Outcome:
        """Note a break; return what it says about the replica."""
        self.tried |= {replica}
        self.last_break, self.refusal = how, ""
        self._rounds = 0
        if how is Break.UNREACHABLE:
            self._unreached = self._unreached or Counter()
            self._rounds = self._unreached[replica]
            self._unreached[replica] += 1
        return _MEANINGS[how]

    def answered(self, replica: str, head: ResponseHead) -> Outcome:
        """Note an answer; return what it says about the replica, once it has been read to its end."""
        status = head.status
        if head.failed and status in {502, 504}:
            return self.broke(replica, Break.BROKEN if status == 502 else Break.TIMED_OUT)
        self.last_break, self.refusal = None, ""
        if head.refused and status == 503:
            reason = head.refused.decode("latin-1")
            outcome = outcome_of(reason)
            if outcome is Outcome.UNREACHABLE:
                return self.broke(replica, Break.UNREACHABLE)
            self.refusal = reason
            return outcome
        if status < 400:
            return Outcome.OK
        if status == 429 or (status == 503 and _has_retry_after(head)):
            return Outcome.BUSY
        return Outcome.ERROR if status >= 500 else Outcome.UNREAD

    def may_go_again(self, withdraw: Callable[[], bool], *, is_in_time: bool) -> bool:
        """Tell whether a request whose body is all here is sent once more; ``withdraw`` takes from the retry budget."""
        if self.last_break is None:
            return bool(self.refusal)
        if self.last_break is Break.UNREACHABLE:
            return True
        if not self.is_idempotent or not self._resends_left or not is_in_time or not withdraw():
            return False
        self._resends_left -= 1
        return True

    def pause_seconds(self, share: float) -> float:
        """Return how long to wait before the next send; ``share`` is by chance, from 0 to 1, so that no two agree."""
        if not self._rounds or self.last_break is None:
            return 0.0
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(self._rounds - 1, 16))
        return longest * (1 + share) / 2


def _has_retry_after(head: ResponseHead) -> bool:
    return any(line[:12].lower() == b"retry-after:" for line in head.lines)
