"""Puts a replica aside that cannot be reached, and takes it back gradually.

A failed connect counts at once: it says something about the replica and nothing about the request; nothing was sent,
so the request goes elsewhere at no risk. A broken connection or a 5xx may be the request's own doing, so only
``ERRORS_IN_A_ROW`` of them count as one failed connect: a replica that fails everything is quick at it, and without
this it would look like the fastest of all. A slow answer never counts (busy is not dead).

healthy ──connect fails──▸ aside (nothing is sent) ──time over──▸ returning (1 trial, then 2, 4 …) ──▸ healthy
                             ▴──────────── a trial's connect fails: aside for twice as long ──┘

* FIRST_SECONDS 0.25: a replica that died leaves the set within about that time anyway (probe and publication), and a
  single lost connect costs a healthy one a quarter of a second.
* LONGEST_SECONDS 8: doubling reaches it with the sixth failure in a row, after 0.25 · (2⁵ − 1) = 7.75 s. It bounds how
  long a replica that came back stays idle; 8 s is below the 30 s that a request waits by default, so every waiting
  request sees at least three trials of each replica.
* Trials double with each one that connects: with the default limit 8 a replica is back after 1 + 2 + 4 = 7 requests,
  and a replica that accepts one and refuses the rest costs one retry each time, not eight.
* Failures of requests that were granted before the replica was put aside do not count again: eight requests that fail
  together are one observation, not eight.
"""

ERRORS_IN_A_ROW = 5
"""Envoy's ``consecutive_5xx``. A request that makes every replica fail puts all aside, which is panic: none is."""
FIRST_SECONDS = 0.25
LONGEST_SECONDS = 8.0


class Health:
    """Whether one replica may be chosen."""

    __slots__ = ("_aside_since", "aside_until", "errors", "failures", "trial_limit", "trials")

    def __init__(self) -> None:
        self.failures = 0
        self.errors = 0
        self.aside_until = 0.0
        self.trial_limit = 1
        self.trials = 0
        self._aside_since = 0.0

    @property
    def why(self) -> str:
        """Say in words what is held against it."""
        times = "once" if self.failures == 1 else f"{self.failures} times in a row"
        return f"could not be reached, or failed, {times}" if self.failures else ""

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is held against it."""
        return self.failures == 0

    def is_aside(self, now: float) -> bool:
        """Whether nothing is sent to it now."""
        return self.failures > 0 and now < self.aside_until

    def admits(self, now: float) -> bool:
        """Whether one more request may go there, as far as health is concerned."""
        return self.failures == 0 or (now >= self.aside_until and self.trials < self.trial_limit)

    def unreachable(self, granted_at: float, now: float) -> None:
        """Note that a request that was granted at ``granted_at`` could not connect."""
        if self.failures and granted_at < self.aside_until:
            return
        self.failures += 1
        self._aside_since = now
        self.trial_limit = 1
        # The exponent is bounded so that a replica that is gone for days does not overflow a float.
        self.aside_until = now + min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(self.failures - 1, 16))

    def failed(self, granted_at: float, now: float) -> None:
        """Note that a request that was granted at ``granted_at`` was answered with a failure, or broken."""
        self.errors += 1
        if self.errors >= ERRORS_IN_A_ROW or self.failures:
            self.errors = 0
            self.unreachable(granted_at, now)

    def reachable(self, granted_at: float, limit: int) -> bool:
        """Note that a request that was granted at ``granted_at`` has been answered; tell whether all is well now."""
        self.errors = 0
        if self.failures == 0 or granted_at < self._aside_since:
            return self.failures == 0
        if self.trial_limit >= limit or granted_at < self.aside_until:
            self.failures = 0
        else:
            self.trial_limit *= 2
        return self.failures == 0
