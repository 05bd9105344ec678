"""Learns what one kind of request costs: those that name the same features.

Three predictions run side by side, and each is judged by the error that it made *before* it learned (prequential:
Dawid, "Statistical Theory: The Prequential Approach", 1984): the mean, which is blind to features, and the two shapes
of ``cost_shape.py``. The answer is their mean, each weighed by a high power of its precision::

    weight ∝ (error variance · handicap)^-POWER, handicap of a shape = 1.05 + 2 · coefficients / observations

* Blind until MINIMUM observations; a shape exists from WARM_UP on, because its units come from the first samples.
* A useless shape has about the error of the mean; then they share the answer, which is as good as the mean. A shape of
  half the variance has 2⁸ = 256 times the weight: that is a choice, but without a jump.
* A shape that has become clearly worse than the mean (its features were inverted, their unit changed) is left, and
  starts again from the next WARM_UP samples. Forgetting alone would take hundreds of requests to turn it round. After
  TRIAL observations it is enough to be no better: its units may be those of other days.
* Errors are cut off at three deviations of the mean's where the mean errs as much: one stuck request says nothing
  about a shape. Where only the shape errs, its error counts nearly in full.
* A prediction stays within what has been seen and half as much more on the log scale, MARGIN at most.

Logs are learned, so the answer is a median; sums of waiting work need means. A log-normal's mean is exp(s²/2) times its
median, and the rest (other forms of noise) is a learned factor (smearing: Duan, 1983).
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from math import copysign, exp, fsum, log, sqrt
from statistics import median

from muster.balancer.cost_shape import Additive, PowerLaw, Sample, Shape

MEMORY = 0.01  # of the mean: 100 observations. It costs 0.5 % of the variance and follows a change of the mix
ERROR_MEMORY = 0.03  # of error variances: a shape that fails is left after some ten requests
FIRST_VARIANCE = 0.5  # of a log residual before there is any: a factor of two either way
WARM_UP = 12  # requests from which a shape takes its units
MINIMUM = 16  # requests before features count
POWER = 8
MARGIN = log(5.0)
WORSE = 1.5  # times the variance of the mean's error: both are measured on the same requests, so their noise is shared
TOGETHER = 9.0  # variances: three deviations
ALONE = 64.0  # variances: eight deviations
TRIAL = 300  # observations, about the memory of a shape
NO_BETTER = 0.9
CLIP = 2.5  # deviations up to which a residual is learned from (Huber's estimator, which is usual at 1.5 to 3)
LEAST = 1e-8  # variance: a ten-thousandth of the seconds, which no clock of a caller resolves
LEAST_CLIP = 0.05  # 5 %: noiseless observations would otherwise make the model deaf


class Mean:
    """The mean of logs, recent ones first, with the variance of its own errors: the prediction without features."""

    __slots__ = ("count", "value", "variance")

    def __init__(self, value: float = 0.0, variance: float = FIRST_VARIANCE, prior: int = 0) -> None:
        self.value = value
        self.count = prior
        self.variance = variance

    def observe(self, log_seconds: float) -> None:
        """Learn one observation."""
        self.count += 1
        if self.count == 1:
            self.value = log_seconds
            return
        error = log_seconds - self.value
        self.value += max(1.0 / self.count, MEMORY) * clipped(error, self.variance)
        self.variance = weighed(self.variance, error * error, self.count, TOGETHER * self.variance)


def clipped(error: float, variance: float) -> float:
    """Return ``error``, cut off where it is an outlier."""
    bound = CLIP * sqrt(variance) + LEAST_CLIP
    return error if -bound < error < bound else copysign(bound, error)


def weighed(variance: float, squared: float, count: int, bound: float) -> float:
    """Return the variance after one more squared error; never zero, so that it can be divided by."""
    gain = max(1.0 / (count + 3), ERROR_MEMORY)
    return max(variance + gain * (min(bound, squared) - variance), LEAST)


def plausible(samples: Collection[Sample]) -> list[Sample]:
    """Return the samples with their seconds cut off four robust deviations from the median.

    The first request of all often loads a model, and would be a twelfth of what a shape begins with.
    """
    centre = median(log_seconds for _, log_seconds in samples)
    # 1.48 times the median deviation is the deviation of a normal distribution.
    bound = LEAST_CLIP + 4.0 * 1.48 * median(abs(log_seconds - centre) for _, log_seconds in samples)
    return [(values, max(centre - bound, min(centre + bound, log_seconds))) for values, log_seconds in samples]


class _Candidate:
    """A shape, the variance of its errors and its share of the answer.

    There are two variances: ``variance`` is compared with the mean's and counts outliers, ``usual`` is what its errors
    are like without them.
    """

    __slots__ = ("_make", "count", "failed_at", "shape", "share", "usual", "variance")

    def __init__(self, make: Callable[[Sequence[Sample]], Shape]) -> None:
        self._make = make

    def start(self, samples: Sequence[Sample], variance: float, span: float) -> None:
        """Begin with these samples, each predicted before it is learned; no error counts for more than ``span``."""
        self.shape = self._make(samples)
        self.variance = self.usual = variance
        self.share = 0.0
        self.count = 0
        self.failed_at = 0  # observations of the kind when it was found to have failed; 0: it has not
        for values, log_seconds in samples:
            row = self.shape.row(values)
            error = log_seconds - self.shape.predict(row)
            self.learn(row, error, min(error * error, span * span), ALONE * variance)

    def learn(self, row: Sequence[float], error: float, squared: float, bound: float) -> None:
        self.count += 1
        self.shape.learn(row, clipped(error, self.usual))
        self.variance = weighed(self.variance, squared, self.count, bound)
        self.usual = weighed(self.usual, squared, self.count, TOGETHER * self.usual)

    def has_failed(self, mean_variance: float) -> bool:
        """Whether it had its chance and the mean, with this variance of its errors, does better or as well."""
        tolerated = NO_BETTER if self.count >= TRIAL else WORSE
        return self.count >= 2 * WARM_UP and self.variance > tolerated * mean_variance


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
        self.mean = Mean(fleet.value, fleet.variance, prior=min(fleet.count, 4))
        self.mean_share = 1.0
        self.variance = fleet.variance
        self._correction = 1.0
        self._low = self._high = fleet.value
        self._samples: deque[Sample] = deque(maxlen=WARM_UP)
        self._candidates: list[_Candidate] = []

    @property
    def is_known(self) -> bool:
        """Whether its errors say something about the replica that served; the first ones are about the kind."""
        return self.count >= WARM_UP

    @property
    def mean_factor(self) -> float:
        """The log of mean over median of the noise: that of a log-normal, corrected, but never to below the median.

        The variance is bounded at 2, where the factor is e: what spreads wider is a mixture, not noise.
        """
        half = min(self.variance, 2.0) / 2.0
        correction = log(self._correction)
        return half + (correction if -half < correction < half else copysign(half, correction))

    def predict(self, values: Sequence[float]) -> float:
        """Return the log of the seconds, as a median."""
        answer = self.mean.value
        if self.mean_share < 1.0:
            answer *= self.mean_share
            for candidate in self._candidates:
                if candidate.share > 0.0:
                    shape = candidate.shape
                    answer += candidate.share * self._bounded(shape.predict(shape.row(values)))
        return answer

    def _bounded(self, log_seconds: float) -> float:
        margin = min(MARGIN, LEAST_CLIP + (self._high - self._low) / 2.0)
        low, high = self._low - margin, self._high + margin
        return log_seconds if low < log_seconds < high else max(low, min(high, log_seconds))

    def observe(self, values: Sequence[float], log_seconds: float) -> float:
        """Learn one observation; return by how much the log was above the prediction."""
        mean = self.mean.value
        variance = self.mean.variance
        bound = (ALONE if (log_seconds - mean) ** 2 < TOGETHER * variance else TOGETHER) * variance
        answer = self.mean_share * mean
        for candidate in self._candidates:
            if candidate.failed_at:
                continue
            row = candidate.shape.row(values)
            free = candidate.shape.predict(row)
            predicted = self._bounded(free)
            answer += candidate.share * predicted
            # It learns from what it said itself and is judged by what was made of it.
            candidate.learn(row, log_seconds - free, (log_seconds - predicted) ** 2, bound)
        error = log_seconds - answer if self.mean.count else 0.0  # nothing was expected of the first of all
        self._note(error, log_seconds)
        self.mean.observe(log_seconds)
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
        # The range closes by a thousandth with each observation, so a stuck request does not widen it for ever.
        self._low = min(log_seconds, self._low + 0.001 * (log_seconds - self._low))
        self._high = max(log_seconds, self._high + 0.001 * (log_seconds - self._high))

    def _judge(self) -> None:
        """Share the answer out between the mean and the shapes; start again what has failed."""
        if self.count == WARM_UP:
            self._warm()
        variance = self.variance = self.mean.variance
        if self.count < MINIMUM or not self._candidates:
            return
        total = 1.0  # the mean's weight; only ratios matter
        for candidate in self._candidates:
            if candidate.failed_at:
                if self.count - candidate.failed_at < WARM_UP:
                    continue
                self._start(candidate)
            elif candidate.has_failed(variance):
                candidate.failed_at = self.count
                candidate.share = 0.0
                continue
            handicap = 1.05 + 2.0 * candidate.shape.size / candidate.count
            candidate.share = (variance / (candidate.variance * handicap)) ** POWER
            total += candidate.share
        for candidate in self._candidates:
            share = candidate.share / total
            # A smaller share changes nothing that anybody can see, and costs a prediction.
            candidate.share = share if share > 0.001 else 0.0
        self.mean_share = max(0.0, 1.0 - sum(candidate.share for candidate in self._candidates))
        # Not below that of the answer (a mean of errors is no worse than they are), and it changes with the shares.
        self.variance = self.mean_share * variance + sum(each.share * each.usual for each in self._candidates)

    def _warm(self) -> None:
        """Replace the first guesses by what the first samples say."""
        samples = plausible(self._samples)
        centre = fsum(log_seconds for _, log_seconds in samples) / len(samples)
        squares = fsum((log_seconds - centre) ** 2 for _, log_seconds in samples)
        self.mean.value = centre
        self.mean.variance = max(squares / (len(samples) - 1), LEAST)
        if self.names:
            self._candidates = [_Candidate(PowerLaw), _Candidate(Additive)]
            for candidate in self._candidates:
                self._start(candidate)

    def _start(self, candidate: _Candidate) -> None:
        candidate.start(plausible(self._samples), self.mean.variance, self._high - self._low + MARGIN)

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
