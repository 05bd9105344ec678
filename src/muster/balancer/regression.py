"""Learns the coefficients of a linear form, one observation at a time, and forgets old ones.

Recursive least squares with exponential forgetting (Ljung, "System Identification", 2nd ed., section 11.2). The caller
brings the row (the gradient of the prediction) and the error, clipped as it likes; so the same class serves forms that
are linear and those that are linear after one Gauss-Newton step.

* FORGETTING 0.997: the memory is 1 / (1 - 0.997) = 333 observations. Noise that is learned as if it were signal costs
  (coefficients) / (2 · 333) of the variance: 0.75 % with four features, 2.5 % with the most that are allowed, sixteen.
* Forgetting what no new observation replaces (a feature that stays constant, two that say the same) would let the
  covariance grow without bound. So each coefficient is observed now and then to be what it was at the start, with just
  the weight that was forgotten since: the prior keeps the weight of one observation for ever. That bounds the
  covariance in every direction and leaves the directions that are observed their memory, which a bound on the trace
  does not. The first coefficient, the intercept, is left out: every observation is about it.
* The covariance stays exactly symmetric: what is taken off are products of one vector's elements.
* State that is not finite, or no covariance any more, starts again.
"""

from collections.abc import Sequence
from math import sqrt
from operator import mul

FORGETTING = 0.997
PRIOR_EVERY = 8  # observations between two reminders: one costs as much as an observation, so this adds an eighth
LARGEST = 1e12  # a coefficient or a covariance beyond it is a failure of arithmetic: rows are of the order of one


class Regression:
    """The coefficients of one linear form and what is known about them."""

    __slots__ = ("_covariance", "_factor", "_reminded", "_start", "_until_reminder", "coefficients")

    def __init__(self, start: Sequence[float]) -> None:
        self._start = list(start)
        self._reset()

    def _reset(self) -> None:
        size = len(self._start)
        self.coefficients = list(self._start)
        # The covariance is _factor times this matrix: so forgetting multiplies one number, not all.
        self._covariance = [[float(row == column) for column in range(size)] for row in range(size)]
        self._factor = 1.0
        self._reminded = 0
        self._until_reminder = PRIOR_EVERY

    def value(self, row: Sequence[float]) -> float:
        """Return the form's value at ``row``."""
        return float(sum(map(mul, self.coefficients, row)))

    def learn(self, row: Sequence[float], error: float) -> None:
        """Move the coefficients by what ``error`` (observed less predicted) says."""
        gains = [sum(map(mul, line, row)) for line in self._covariance]
        self._update(gains, FORGETTING + self._factor * sum(map(mul, row, gains)), error)
        self._factor /= FORGETTING
        self._until_reminder -= 1
        if self._until_reminder == 0:
            self._until_reminder = PRIOR_EVERY
            self._remember()

    def _remember(self) -> None:
        """Observe one coefficient to be what it was at the start, with the weight that was forgotten since."""
        others = len(self._start) - 1
        if others == 0:
            return
        nth = self._reminded = self._reminded % others + 1
        forgotten = 1.0 - FORGETTING ** (PRIOR_EVERY * others)
        gains = list(self._covariance[nth])
        self._update(gains, 1.0 / forgotten + self._factor * gains[nth], self._start[nth] - self.coefficients[nth])
        if self._factor > 2.0:
            self._covariance = [[self._factor * each for each in line] for line in self._covariance]
            self._factor = 1.0
        # Now and then is often enough to look whether arithmetic has failed; comparisons with NaN are false.
        sound = all(0.0 < line[index] < LARGEST for index, line in enumerate(self._covariance))
        if not (sound and all(-LARGEST < coefficient < LARGEST for coefficient in self.coefficients)):
            self._reset()

    def _update(self, gains: list[float], innovation: float, error: float) -> None:
        """Apply one rank-one update; ``innovation`` is the variance of the error before it."""
        if not 0.0 < innovation < LARGEST * LARGEST:
            self._reset()
            return
        scale = self._factor / innovation
        step = scale * error
        self.coefficients = [old + gain * step for old, gain in zip(self.coefficients, gains, strict=True)]
        root = sqrt(scale)
        halves = [gain * root for gain in gains]
        self._covariance = [
            [old - one * other for old, other in zip(line, halves, strict=True)]
            for line, one in zip(self._covariance, halves, strict=True)
        ]
