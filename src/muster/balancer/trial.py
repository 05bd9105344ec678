"""One comparison of two limits: whether the higher one gives clearly more throughput (``limit.py`` says what for).

A level's slowness is the sum of its requests' seconds relative to the sum of what was expected of them, which is what
throughput is made of (Little's law); means of logs would be less noisy, but where requests wait for each other they
count a short one behind a long one as much as a long one behind a short one, and say "worthless" far too early.

Wald's sequential probability ratio test ("Sequential Tests of Statistical Hypotheses", 1945) of ``WORTH`` against
``WORTHLESS`` says when there are enough answers: about ten where sizes are known, a hundred and more where they are
not. Both sides are measured: how much slower, and how many more were in flight, because a level that was asked for is
not always reached, and a long request lives through both.
"""

import math
from typing import NamedTuple

WORTH = 0.5
"""An elasticity at which growing is right: doubling the limit buys 2 ** 0.5 - 1 = 41 % of throughput."""
WORTHLESS = 1.0
"""Doubling buys nothing. The test turns between the two: at 0.75 doubling buys 19 %."""

EVIDENCE = 2.2
"""Log of the odds that end a trial: 9 to 1."""
DOUBT = 1.0
"""Log of the odds (3 to 1) from which on plain seconds contradict ratios, and with which they have to agree to growth
where blocks are long."""

FEW, MANY = 8, 16
"""Answers in a block, at least, where ratios are exact, and where they are noisy."""
NOISY = 0.3
"""Deviation of a ratio from which on ratios count as noisy."""
TELLING = 0.5
"""Ratios are used where they have at most that share of the variance of seconds."""
MOST_BLOCKS = 24
"""A trial that has not ended then is about something that makes little difference."""
CLIPPED_AT = 4.0
"""Deviations that one answer may be away from what its level makes of it."""
NOISE_MEMORY = 200
INHERITED = 64
"""A level known from the trial before counts as at most so many answers, because the trial before was before."""


class LevelStatistics(NamedTuple):
    """How long requests took at one limit, relative to what was expected of them alone."""

    limit: int
    answers: float
    in_flight: float
    ratio: float


class Verdict(NamedTuple):
    """The limit that won; not ``is_clear`` when the trial was ended for its length."""

    limit: int
    is_clear: bool


class Sums:
    """Seconds, and what they are relative to."""

    __slots__ = ("count", "expected", "seconds")

    def __init__(self) -> None:
        self.count = self.seconds = self.expected = 0.0

    @property
    def relative(self) -> float:
        """Seconds per expected second."""
        return self.seconds / self.expected

    def add(self, seconds: float, expected: float) -> None:
        """Count one answer in."""
        self.count += 1.0
        self.seconds += seconds
        self.expected += expected

    def weigh(self, most: float) -> None:
        """Count as at most so many answers."""
        share = min(1.0, most / max(self.count, 1.0))
        self.count *= share
        self.seconds *= share
        self.expected *= share


class Noise:
    """The variance of one answer around what its level makes of it, relative to the level's mean."""

    __slots__ = ("_count", "variance")

    def __init__(self) -> None:
        self.variance = 0.25
        self._count = 1

    @property
    def is_high(self) -> bool:
        """Whether answers say something only together."""
        return self.variance > NOISY * NOISY

    def clipped(self, seconds: float, expected: float, level: Sums) -> float:
        """Learn from an answer, and return its seconds, nearer to what was to be expected where they are far away."""
        mean = level.seconds / level.count
        usual = level.relative * expected
        most = CLIPPED_AT * math.sqrt(self.variance)
        error = (seconds - usual) / mean
        self._count = min(self._count + 1, NOISE_MEMORY)
        # Twice as far is let into the variance, or it could never grow to what it is.
        squared = min(error * error, 4.0 * most * most)
        self.variance += (squared - self.variance) / self._count
        return max(usual + max(-most, min(most, error)) * mean, 1e-9)

    def odds(self, apart: float, low: Sums, high: Sums) -> float:
        """Return the log of the odds that ``high`` is worth it; ``apart``: log of how many times as many in flight.

        Noise is never taken for less than ``NOISY``: what little is wrong with the assumptions would decide.
        """
        slower = math.log(high.relative / low.relative)
        variance = max(self.variance, NOISY * NOISY) * (1.0 / low.count + 1.0 / high.count)
        return (WORTHLESS - WORTH) * apart * ((WORTHLESS + WORTH) / 2.0 * apart - slower) / variance


class Noises(NamedTuple):
    """That of seconds relative to expected ones, and that of plain seconds."""

    ratios: Noise
    seconds: Noise


class Level:
    """What is known of one of the two limits."""

    __slots__ = ("by_ratio", "by_seconds", "limit", "log_in_flight")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.by_ratio, self.by_seconds = Sums(), Sums()
        self.log_in_flight = 0.0

    @property
    def count(self) -> float:
        """How many answers it is known from."""
        return self.by_ratio.count

    def statistics(self) -> LevelStatistics:
        """Return it for people; a ratio of 0 says that nothing is known."""
        ratio = self.by_ratio.relative if self.count else 0.0
        return LevelStatistics(self.limit, self.count, math.exp(self.log_in_flight), ratio)


class Trial:
    """``low`` and ``high`` in turns; it begins with the level of ``base``, which is the limit at that time."""

    def __init__(
        self, low: int, high: int, base: int, noises: Noises, now: float, *, before: "Trial | None" = None
    ) -> None:
        self.low, self.high = Level(low), Level(high)
        self.answers = self.blocks = 0
        self._base = base
        self._now_at = base
        self._ratios, self._seconds = noises
        self.since = self._block_since = now
        self._fresh = self._stale = 0
        if before is not None:
            self._inherit(before)

    @property
    def is_block_over(self) -> bool:
        """Whether enough that began in this block have ended, also compared with those that it found under way.

        Those saw both limits; twice as many that saw only this one keep the limits apart. And as many as one replica
        holds, since the very first to end are the shortest of all.
        """
        return self._fresh >= max(MANY if self._ratios.is_high else FEW, self._now_at, 2 * self._stale)

    def observe(self, limit: int, began: float, in_flight: float, seconds: float, expected: float) -> None:
        """Count an answer for the level at which it began."""
        self.answers += 1
        if began >= self._block_since:
            self._fresh += 1
        else:
            self._stale += 1
        for level in (self.low, self.high):
            if level.limit == limit and began >= self.since:
                by_ratio = by_seconds = seconds
                if level.count >= FEW / 2:
                    by_ratio = self._ratios.clipped(seconds, expected, level.by_ratio)
                    by_seconds = self._seconds.clipped(seconds, 1.0, level.by_seconds)
                level.by_ratio.add(by_ratio, expected)
                level.by_seconds.add(by_seconds, 1.0)
                # Long ones make most of the sums, so it is their company that counts.
                share = by_seconds / level.by_seconds.seconds
                level.log_in_flight += share * (math.log(in_flight) - level.log_in_flight)

    def verdict(self) -> Verdict | None:
        """Say at the end of a block who won, if that is known."""
        self.blocks += 1
        low, high = self.low, self.high
        if min(low.count, high.count) < FEW / 2:
            return None
        apart = high.log_in_flight - low.log_in_flight
        by_seconds = self._seconds.odds(apart, low.by_seconds, high.by_seconds)
        # An expectation that hardly explains anything moves all the same, with whatever ended last.
        is_telling = self._ratios.variance < TELLING * self._seconds.variance
        by_ratio = self._ratios.odds(apart, low.by_ratio, high.by_ratio) if is_telling else by_seconds
        # Exact ratios do not depend on which requests have ended, and in short blocks no model forgets.
        is_exact = not self._ratios.is_high and high.limit <= MANY
        high_may_win = is_exact or self._now_at == low.limit
        low_may_win = is_exact or self._now_at == high.limit
        least = -DOUBT if is_exact else DOUBT
        if high_may_win and max(by_ratio, by_seconds) >= EVIDENCE and min(by_ratio, by_seconds) > least:
            return Verdict(high.limit, is_clear=True)
        if low_may_win and (by_seconds <= -EVIDENCE or (by_ratio <= -EVIDENCE and by_seconds < DOUBT)):
            return Verdict(low.limit, is_clear=True)
        if self.blocks >= MOST_BLOCKS:
            return Verdict((high if min(by_ratio, by_seconds) > 0.0 else low).limit, is_clear=False)
        return None

    def next_block(self, now: float) -> int:
        """Return the limit whose turn it is."""
        self._now_at = self.low.limit if self._now_at == self.high.limit else self.high.limit
        self._block_since = now
        self._fresh = self._stale = 0
        return self._now_at

    def pause(self, limit: int) -> None:
        """Take over that ``limit`` holds again; what was learned stays."""
        self._now_at = limit

    def statistics(self) -> tuple[LevelStatistics, LevelStatistics]:
        """Return both levels for people."""
        return self.low.statistics(), self.high.statistics()

    def _inherit(self, before: "Trial") -> None:
        known = before.low if before.low.limit == self._base else before.high
        known.by_ratio.weigh(INHERITED)
        known.by_seconds.weigh(INHERITED)
        self.since = before.since
        if self.low.limit == self._base:
            self.low = known
        else:
            self.high = known
