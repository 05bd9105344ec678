"""How much extra load sending again may cause: a token bucket after Finagle's ``RetryBudget``.

Each call deposits a fifth of a token, each re-send takes a whole one, both are forgotten after 10 seconds; a reserve of
10 per second lets a service with little traffic retry at all. So re-sends add at most 20 % to the load, plus the
reserve. A retry storm, in which every broken answer doubles the load that broke it, cannot build up.

Source: Finagle, ``com.twitter.finagle.service.RetryBudget``, defaults ttl = 10 s, minRetriesPerSec = 10,
percentCanRetry = 0.2. Connect failures take nothing: nothing was sent, so they add no load.
"""

from collections import deque

WINDOW_SECONDS = 10
CALLS_PER_RESEND = 5
RESERVE_PER_SECOND = 10


class RetryBudget:
    """Counts by whole seconds, so that its size does not grow with traffic, and in fifths, so that nothing drifts."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque()
        self._balance = RESERVE_PER_SECOND * WINDOW_SECONDS * CALLS_PER_RESEND

    def deposit(self, now: float) -> None:
        """Count a call."""
        self._add(now, 1)

    def withdraw(self, now: float) -> bool:
        """Take a token for a re-send, or say that there is none."""
        self._forget(now)
        if self._balance < CALLS_PER_RESEND:
            return False
        self._add(now, -CALLS_PER_RESEND)
        return True

    def _add(self, now: float, amount: int) -> None:
        second = int(now)
        if self._seconds and self._seconds[-1][0] >= second:
            self._seconds[-1] = self._seconds[-1][0], self._seconds[-1][1] + amount
        else:
            self._seconds.append((second, amount))
        self._balance += amount
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0][0] <= now - WINDOW_SECONDS:
            self._balance -= self._seconds.popleft()[1]
