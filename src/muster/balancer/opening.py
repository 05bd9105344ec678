"""The first steps of a limit: double it after a few answers, until requests get slower about in proportion.

A regression of the log of how long requests took on the log of how many their replica held, over all answers of the
opening: its slope is the elasticity that ``limit.py`` speaks of, 0 where company costs nothing and 1 where more buys
nothing. Steps reach far apart, so a slope is known from few answers. Both plain seconds and seconds relative to what
was expected are looked at, since a model that has just begun learns every slowdown as the size of requests.
"""

import math

STEP = 8
"""Answers at a limit, at least, before the next one."""
OPEN_UP_TO = 8
"""What most servers of models take at once without running out of memory; beyond it growth needs evidence."""
WORTHLESS_SLOPE = 0.6
"""At 0.6 doubling buys 32 % of throughput."""


class _Slope:
    """Sums of a regression of y on x."""

    __slots__ = ("count", "x", "xx", "xy", "y", "yy")

    def __init__(self) -> None:
        self.count = self.x = self.y = self.xx = self.xy = self.yy = 0.0

    def add(self, x: float, y: float) -> None:
        self.count += 1.0
        self.x += x
        self.y += y
        self.xx += x * x
        self.xy += x * y
        self.yy += y * y

    def is_above(self, slope: float) -> bool:
        """Whether the slope is above another by more than its own standard error."""
        if self.count < 2 * STEP:
            return False
        xx = self.xx - self.x * self.x / self.count
        xy = self.xy - self.x * self.y / self.count
        yy = self.yy - self.y * self.y / self.count
        if xx < 1e-9:
            return False
        found = xy / xx
        left = max(0.0, yy - found * xy) / max(1.0, self.count - 2.0)
        return found - math.sqrt(left / xx) > slope


class Opening:
    """What was seen since the limit was 1."""

    def __init__(self) -> None:
        self._fresh = 0
        self._by_seconds, self._by_ratio = _Slope(), _Slope()

    def observe(self, in_flight: float, seconds: float, ratio: float, *, is_fresh: bool) -> None:
        """Count an answer; ``is_fresh``: it began at the present limit."""
        self._fresh += is_fresh
        self._by_seconds.add(math.log(in_flight), math.log(seconds))
        self._by_ratio.add(math.log(in_flight), math.log(ratio))

    def is_step_over(self, limit: int) -> bool:
        """Whether enough began and ended at this limit."""
        return self._fresh >= max(STEP, limit)

    def next_step(self) -> None:
        """Begin at another limit."""
        self._fresh = 0

    @property
    def is_worthless(self) -> bool:
        """Whether more at once only makes requests slower."""
        return self._by_seconds.is_above(WORTHLESS_SLOPE) or self._by_ratio.is_above(WORTHLESS_SLOPE)
