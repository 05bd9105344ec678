"""When an API is asked next: at an interval while it answers, more and more seldom while it does not.

Who asks in between, while it fails, gets the last error at once and costs no call.
"""

import random
from typing import NoReturn

from muster.clock import Clock
from muster.errors import FeedError, FeedRefused

FIRST_REST_SECONDS = 0.8
"""Shorter than the second after which a watcher asks again: one lost answer is made good by the next."""
LONGEST_SECONDS = 60.0
LONGEST_INTERVALS = 12
JITTER = 0.1


class Pace:
    """One API's rhythm, ±10 %, so that many watchers do not ask in step."""

    def __init__(self, clock: Clock, interval_seconds: float, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._interval_seconds = interval_seconds
        self._error: FeedError | None = None
        self.failures = 0
        """How often it has failed in a row."""
        self.next_at = clock.monotonic()
        """When it may be asked next, or when it is time to."""

    @property
    def is_due(self) -> bool:
        """Whether it is time to ask."""
        return self._clock.monotonic() >= self.next_at

    def check(self) -> None:
        """Raise the last error while the API is being left alone."""
        if self._error is not None and not self.is_due:
            self._raise(self._error)

    def went_well(self, *, was_poll: bool) -> None:
        """Note an answer; one that told everything puts off the next poll."""
        if was_poll or self.failures:
            self.next_at = self._clock.monotonic() + self._about(self._interval_seconds)
        self._error, self.failures = None, 0

    def failed(self, error: FeedError) -> None:
        """Note a failure: the API is left alone twice as long as before, at once for long if a person has to act."""
        self.failures += 1
        longest = max(self._interval_seconds, min(LONGEST_SECONDS, LONGEST_INTERVALS * self._interval_seconds))
        doubled = min(FIRST_REST_SECONDS, self._interval_seconds) * 2.0 ** min(self.failures - 1, 32)
        rest = longest if isinstance(error, FeedRefused) else min(doubled, longest)
        self._error = error
        self.next_at = self._clock.monotonic() + self._about(rest)

    def _about(self, seconds: float) -> float:
        return seconds * self._rng.uniform(1 - JITTER, 1 + JITTER)

    def _raise(self, error: FeedError) -> NoReturn:
        left = self.next_at - self._clock.monotonic()
        raise type(error)(f"{error} (asked again in {left:.0f} s)", error.code)
