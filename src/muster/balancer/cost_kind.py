"""Learns what one kind of request costs: those that name the same features.

Three predictions run side by side, and each is judged by the error that it made *before* it learned (prequential:
Dawid, "Statistical Theory: The Prequential Approach", 1984): the mean, which is blind to features, and the two shapes
of ``cost_shape.py``. The answer is their mean, each weighed by a high power of its precision::

    weight ∝ (error variance · handicap)^-8, handicap of a shape = 1.05 + coefficients / observations

* Blind until MINIMUM observations; a shape exists from WARM_UP on, because its units come from the first samples.
* A useless shape has about the error of the mean; then the two share the answer and its noise is halved. A shape
  whose error is half has 2⁸ = 256 times the weight: that is a choice, but without a jump.
* A shape that has become clearly worse than the mean (its features were inverted, their unit changed) starts again
  from the recent samples. Forgetting alone would take hundreds of requests to turn it round.
* Errors are cut off at three deviations of the mean's, for all alike: one stuck request says nothing about a shape.
* A prediction stays within what has been seen, and a factor of ``MARGIN`` more: it may only extrapolate so far.

Logs are learned, so the answer is a median; sums of waiting work need means. A log-normal's mean is exp(s²/2) times its
median, and the rest (other forms of noise) is a learned factor (smearing: Duan, 1983).
"""

from collections import deque
from collections.abc import Sequence
from math import exp, log, sqrt

from muster.balancer.cost_shape import Additive, PowerLaw, Sample, Shape

MEMORY = 0.01  # of the mean: 100 observations. It costs 0.5 % of the variance and follows a change of the mix
ERROR_MEMORY = 0.03  # of error variances: a shape that fails is left after some ten requests
FIRST_VARIANCE = 0.5  # of a log residual before there is any: a factor of two either way
WARM_UP = 12
MINIMUM = 16
POWER = 8
MARGIN = log(5.0)
WORSE = 1.5  # times the variance of the mean's error: no noise of the estimates reaches it, see the tests
CLIP = 2.5  # deviations up to which a residual is learned from (Huber's estimator, which is usual at 1.5 to 3)
LEAST_CLIP = 0.05  # 5 %: noiseless observations would otherwise make the model deaf


class Mean:
    """The mean of logs, recent ones first, with the variance of its own errors: the prediction without features."""

    __slots__ = ("count", "value", "variance")

    def __init__(self, value: float = 0.0, prior: int = 0) -> None:
        self.value = value
        self.count = prior
        self.variance = FIRST_VARIANCE

    def observe(self, log_seconds: float) -> None:
        """Learn one observation."""
        self.count += 1
        if self.count == 1:
            self.value = log_seconds
            return
        error = log_seconds - self.value
        self.value += max(1.0 / self.count, MEMORY) * clipped(error, self.variance)
        self.variance = weighed(self.variance, error * error, self.count, 9.0 * self.variance)


def clipped(error: float, variance: float) -> float:
    """Return ``error``, cut off where it is an outlier."""
    bound = CLIP * sqrt(variance) + LEAST_CLIP
    return max(-bound, min(bound, error))


def weighed(variance: float, squared: float, count: int, bound: float) -> float:
    """Return the variance after one more squared error; never zero, so that it can be divided by."""
    gain = max(1.0 / (count + 3), ERROR_MEMORY)
    return max(variance + gain * (min(squared, bound) - variance), 1e-8)


class _Candidate:
    """A shape, the variance of its errors and its share of the answer."""

    __slots__ = ("count", "shape", "share", "variance")

    def __init__(
        self, kind: type[PowerLaw] | type[Additive], samples: Sequence[Sample], low: float, high: float
    ) -> None:
        self.shape: Shape = kind(samples)
        self.variance = FIRST_VARIANCE
        self.share = 0.0
        self.count = 0
        for values, log_seconds in samples:
            self.learn(values, log_seconds - max(low, min(high, self.shape.predict(values))), 9.0 * self.variance)

    def learn(self, values: Sequence[float], error: float, bound: float) -> None:
        self.count += 1
        self.shape.learn(values, clipped(error, self.variance))
        self.variance = weighed(self.variance, error * error, self.count, bound)

    @property
    def weight(self) -> float:
        return float((self.variance * (1.05 + self.shape.size / self.count)) ** -POWER)


class Kind:
    """What is known of the requests that name the same features; without names, only the mean."""

    __slots__ = (
        "_candidates",
        "_correction",
        "_high",
        "_low",
        "_samples",
        "count",
        "mean",
        "mean_share",
        "names",
        "variance",
    )

    def __init__(self, names: tuple[str, ...], fleet: Mean) -> None:
        self.names = names
        self.count = 0
        self.mean = Mean(fleet.value, min(fleet.count, 4))
        self.mean_share = 1.0
        self.variance = fleet.variance
        self._correction = 1.0
        self._low = self._high = fleet.value
        self._samples: deque[Sample] = deque(maxlen=WARM_UP)
        self._candidates: list[_Candidate] = []

    @property
    def mean_factor(self) -> float:
        """The log of mean over median of the noise; the variance is bounded at 2, where the factor is e."""
        return min(self.variance, 2.0) / 2.0 + log(self._correction)

    def predict(self, values: Sequence[float]) -> float:
        """Return the log of the seconds, as a median."""
        answer = self.mean.value
        if self.mean_share < 1.0:
            answer *= self.mean_share
            for candidate in self._candidates:
                if candidate.share > 0.0:
                    answer += candidate.share * self._bounded(candidate.shape.predict(values))
        return answer

    def _bounded(self, log_seconds: float) -> float:
        return max(self._low - MARGIN, min(self._high + MARGIN, log_seconds))

    def observe(self, values: Sequence[float], log_seconds: float) -> float:
        """Learn one observation; return by how much the log was above the prediction."""
        mean = self.mean.value
        bound = 9.0 * self.mean.variance
        answer = self.mean_share * mean
        for candidate in self._candidates:
            predicted = self._bounded(candidate.shape.predict(values))
            answer += candidate.share * predicted
            candidate.learn(values, log_seconds - predicted, bound)
        error = log_seconds - answer if self.mean.count else 0.0
        self._note(error, log_seconds)
        self.mean.observe(log_seconds)
        if self.names:
            self._samples.append((tuple(values), log_seconds))
            self._judge()
        return error

    def _note(self, error: float, log_seconds: float) -> None:
        """Keep the spread of the answer's errors and the range of what has been seen."""
        if self.count == 0 and self.mean.count == 0:
            self._low = self._high = log_seconds
        self.count += 1
        deviation = 3.0 * sqrt(self.variance)
        factor = exp(min(error, deviation, 5.0) - min(self.variance, 2.0) / 2.0)
        gain = max(1.0 / (self.count + 10), MEMORY)
        self._correction = max(0.5, min(2.0, self._correction + gain * (factor - self._correction)))
        self.variance = weighed(self.variance, error * error, self.count, 9.0 * self.variance)
        # The range closes by a thousandth with each observation, so a stuck request does not widen it for ever.
        self._low = min(log_seconds, self._low + 0.001 * (log_seconds - self._low))
        self._high = max(log_seconds, self._high + 0.001 * (log_seconds - self._high))

    def _judge(self) -> None:
        """Share the answer out between the mean and the shapes; start again what has failed."""
        if self.count == WARM_UP:
            self._candidates = [self._fresh(PowerLaw), self._fresh(Additive)]
        if self.count < MINIMUM:
            return
        total = weight = float(self.mean.variance**-POWER)
        for index, candidate in enumerate(self._candidates):
            if candidate.variance > WORSE * self.mean.variance and candidate.count >= 2 * WARM_UP:
                self._candidates[index] = self._fresh(type(candidate.shape))
        for candidate in self._candidates:
            candidate.share = candidate.weight if candidate.count >= MINIMUM else 0.0
            total += candidate.share
        # A share below a thousandth changes nothing that anybody can see, and costs its prediction.
        least = total / 1000.0
        for candidate in self._candidates:
            if candidate.share < least:
                total -= candidate.share
                candidate.share = 0.0
        for candidate in self._candidates:
            candidate.share /= total
        self.mean_share = weight / total

    def _fresh(self, shape: type[Shape]) -> _Candidate:
        return _Candidate(
            PowerLaw if shape is PowerLaw else Additive, self._samples, self._low - MARGIN, self._high + MARGIN
        )

    @property
    def in_use(self) -> str:
        """Name what has the largest share of the answer."""
        best = self._best
        return best.shape.name if best else "mean"

    @property
    def _best(self) -> _Candidate | None:
        best = max(self._candidates, key=lambda candidate: candidate.share, default=None)
        return best if best and best.share > self.mean_share else None

    def formula(self, shift: float) -> str:
        """Say it in words, ``shift`` added to the log of the seconds."""
        best = self._best
        return (
            best.shape.formula(self.names, shift)
            if best
            else f"{exp(max(-300.0, min(300.0, self.mean.value + shift))):.3g} s"
        )

    @property
    def shares(self) -> dict[str, float]:
        """Say how much each prediction has of the answer."""
        return {"mean": self.mean_share} | {each.shape.name: each.share for each in self._candidates}
