"""Two shapes that the cost of a request may have in its features, learned online on the log scale.

* ``PowerLaw``: seconds = c · x₁^b₁ · x₂^b₂ …, linear in the logarithms. Right for products (pixels × steps), and a
  noisy feature of unknown unit is still one straight line.
* ``Additive``: seconds = a + b₁·x₁ + b₂·x₂ … + p·x₁·x₂…, right for a fixed cost plus parts (prompt tokens, tokens to
  write). Its error is taken on the log scale as well: one Gauss-Newton step per observation on log(a + b·x), whose
  gradient is x / (a + b·x). Weighing by 1/t² instead would bias it low by the noise (by a third for a noise of 0.5).

Features come in any unit, 1e-6 or 1e12, so a shape is made from the first samples: their means and deviations become
its units. What lies far outside later is cut off at a bound, so that nothing can overflow; the caller bounds the
prediction. A shape says nothing about whether it is any good: that is measured by who uses it.
"""

from collections.abc import Sequence
from math import copysign, exp, fsum, log, log1p, sqrt
from typing import NamedTuple, Protocol

from muster.balancer.regression import Regression

Sample = tuple[Sequence[float], float]
"""The values of the features, in the order of their names, and the log of the seconds."""

FURTHEST_LOG = 20.0  # deviations of a logarithm; what is further is not from the same feature
FURTHEST = 1000.0  # times the mean of the first samples; a larger request counts as one of that size
STEEPEST = 100.0  # the steepest gradient of log(a + b·x) followed, where a + b·x is near its floor
SMALLEST = 1e-300  # of what is divided by, so that its reciprocal is a number
PRODUCT_UP_TO = 4  # features whose product is a term; with more, one of them is surely no factor


class Shape(Protocol):
    """A form of the cost: predicts, and learns what it should have predicted."""

    name: str
    size: int

    def row(self, values: Sequence[float]) -> list[float]:
        """Return the terms of the form for these values of the features, in their order."""
        ...

    def predict(self, row: Sequence[float]) -> float:
        """Return the log of the seconds."""
        ...

    def learn(self, row: Sequence[float], error: float) -> None:
        """Learn that the log of the seconds was ``error`` above the prediction."""
        ...

    def formula(self, names: Sequence[str], shift: float) -> str:
        """Say it in words, ``shift`` added to the log of the seconds."""
        ...


class _Scale(NamedTuple):
    """How the logarithm of one feature is taken, and its mean and deviation in the first samples."""

    unit: float
    """0 where the feature was positive; else the size below which the logarithm becomes a line through zero."""
    least: float
    """What stands for a value that has no logarithm."""
    centre: float
    deviation: float


def _logarithm(value: float, unit: float, least: float) -> float:
    if unit:
        return copysign(log1p(abs(value) / unit), value)
    return log(value) if value > least else log(least)


def _scale(values: Sequence[float]) -> _Scale:
    count = len(values)
    smallest = min(values)
    # A tenth of the typical size for the unit; a thousandth of the least seen for what comes later and is not positive.
    unit = 0.0 if smallest > 0.0 else max(fsum(abs(value) / count for value in values) / 10.0, SMALLEST)
    least = max(smallest * 1e-3, SMALLEST)
    logs = [_logarithm(value, unit, least) for value in values]
    centre = fsum(logs) / count
    # A feature that was constant so far gets a quarter (28 %) as its deviation, to learn from when it moves.
    deviation = max(sqrt(fsum((each - centre) ** 2 for each in logs) / count), 0.25)
    return _Scale(unit, least, centre, deviation)


class PowerLaw:
    """A product of powers of the features."""

    name = "power law"
    __slots__ = ("_regression", "_scales", "size")

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._scales = [_scale(values) for values in zip(*(values for values, _ in samples), strict=True)]
        self.size = 1 + len(self._scales)
        level = fsum(seconds for _, seconds in samples) / len(samples)
        self._regression = Regression([level, *([0.0] * len(self._scales))])

    def row(self, values: Sequence[float]) -> list[float]:
        """Return 1 and the logarithms, standardised."""
        row = [1.0]
        for value, (unit, least, centre, deviation) in zip(values, self._scales, strict=True):
            scaled = (_logarithm(value, unit, least) - centre) / deviation
            row.append(scaled if -FURTHEST_LOG < scaled < FURTHEST_LOG else copysign(FURTHEST_LOG, scaled))
        return row

    def predict(self, row: Sequence[float]) -> float:
        """Return the log of the seconds."""
        return self._regression.value(row)

    def learn(self, row: Sequence[float], error: float) -> None:
        """Learn that the log of the seconds was ``error`` above the prediction."""
        self._regression.learn(row, error)

    def formula(self, names: Sequence[str], shift: float) -> str:
        """Say it as ``0.021 s × pixels^0.97 × steps^1.02``."""
        level, *slopes = self._regression.coefficients
        powers = []
        for name, scale, slope in zip(names, self._scales, slopes, strict=True):
            power = slope / scale.deviation
            level -= power * scale.centre
            base = f"(1 + |{name}| / {scale.unit:.3g})" if scale.unit else name
            powers.append(f"{base}^{power:.2f}")
        return " × ".join([f"{exp(max(-700.0, min(700.0, level + shift))):.3g} s", *powers])


class Additive:
    """A fixed cost, a part for each feature, and one for the product of all where there are few."""

    name = "additive"
    __slots__ = ("_floor", "_level", "_regression", "_units", "_with_product", "size")

    def __init__(self, samples: Sequence[Sample]) -> None:
        count = len(samples)
        self._units = [
            max(fsum(abs(value) / count for value in values), SMALLEST)
            for values in zip(*(values for values, _ in samples), strict=True)
        ]
        self._with_product = 2 <= len(self._units) <= PRODUCT_UP_TO
        self.size = 1 + len(self._units) + self._with_product
        self._level = fsum(seconds for _, seconds in samples) / count
        # Nothing costs less than a fiftieth of the least seen: a sum may fall below zero, a cost may not.
        self._floor = 0.02 * exp(max(-600.0, min(seconds for _, seconds in samples) - self._level))
        self._regression = Regression([1.0, *([0.0] * (self.size - 1))])

    def row(self, values: Sequence[float]) -> list[float]:
        """Return 1, the features in units of their first mean, and their product."""
        row = [1.0]
        product = 1.0
        for value, unit in zip(values, self._units, strict=True):
            scaled = value / unit
            if not -FURTHEST < scaled < FURTHEST:
                scaled = copysign(FURTHEST, scaled)
            row.append(scaled)
            product *= scaled
        if self._with_product:
            row.append(product if -FURTHEST < product < FURTHEST else copysign(FURTHEST, product))
        return row

    def predict(self, row: Sequence[float]) -> float:
        """Return the log of the seconds."""
        return self._level + log(max(self._regression.value(row), self._floor))

    def learn(self, row: Sequence[float], error: float) -> None:
        """Learn that the log of the seconds was ``error`` above the prediction."""
        slope = 1.0 / max(self._regression.value(row), self._floor, max(map(abs, row)) / STEEPEST)
        self._regression.learn([each * slope for each in row], error)

    def formula(self, names: Sequence[str], shift: float) -> str:
        """Say it as ``0.5 s + 2.1e-07 s × pixels + …``."""
        factor = exp(max(-300.0, min(300.0, self._level + shift)))
        fixed, *slopes = self._regression.coefficients
        parts = [f"{fixed * factor:.3g} s"]
        product = 1.0
        for name, unit, slope in zip(names, self._units, slopes, strict=False):
            parts.append(f"{slope * factor / unit:.3g} s × {name}")
            product *= unit
        if self._with_product and product:
            parts.append(f"{slopes[-1] * factor / product:.3g} s × " + " × ".join(names))
        return " + ".join(parts).replace("+ -", "- ")
