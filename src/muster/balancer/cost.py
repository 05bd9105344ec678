"""Learns what a request costs, from the features that its caller names and the seconds that requests took.

::

    log seconds = log work(features) + log slowness(GPU, replica) + gamma · log(in flight) + noise
                  cost_kind.py         cost_slowness.py             cost_crowding.py

The parts are learned from one residual each time, so none of them explains what another has explained already. The
logarithm makes a factor of everything: unlike speeds, unlike units, and a request that took three times as long counts
as much as one that took a third.

Owned here: which requests are of one kind (the same set of feature names), and the shape of the statistics. Flows in:
one ``observe`` per answered request. Flows out: ``work`` orders the queue and sums waiting work up, ``slowness`` and
``crowding`` choose a replica. No clock, no I/O, no randomness: the same observations give the same model.

Refused: one regression over all requests with missing features as zeros (zero is a size too), and trees or networks
(they need more observations than a service that has just started has, and a library). A model is never trusted for
having features: it is used as far as its errors are below those of the plain mean (``cost_kind.py``).
"""

from collections.abc import Mapping, Sequence
from math import exp, isfinite, log, sqrt
from typing import NamedTuple

from muster.balancer.cost_crowding import Crowding
from muster.balancer.cost_kind import TOGETHER, Kind, Mean, clipped
from muster.balancer.cost_slowness import Slowness

Features = Mapping[str, float]
"""Names and finite numbers, at most 16: what is known of a request's size before it runs."""

MOST_KINDS = 8  # a service has one or two shapes of request; more are a caller that invents names
MOST_ORDERS = 64  # orders in which names have come; a caller writes them in one or two
UNKNOWN_SECONDS = 1.0  # before the first answer nothing is known, and any positive number orders a queue alike
SPREAD_MEMORY = 0.02  # of the spread: 50 observations
SHORTEST, LONGEST = 1e-9, 1e9  # seconds: bounds of arithmetic, not of life


class KindStatistics(NamedTuple):
    """What was learned of the requests that name the same features."""

    in_use: str
    formula: str
    error: float
    """Deviation of the log of the seconds from what was expected: 0.1 is about 10 %."""
    mean_error: float
    """The same for the plain mean, which knows no features."""
    shares: dict[str, float]
    observations: int


class CostStatistics(NamedTuple):
    """What was learned of a service's costs; numbers, strings and dicts only, so that JSON can hold it."""

    observations: int
    unmatched: int
    """Requests without usable features, which were expected to cost the mean."""
    spread: float
    crowding: float
    kinds: dict[str, KindStatistics]
    gpus: dict[str, float]
    replicas: dict[str, float]


class CostModel:
    """The costs of one service's requests."""

    __slots__ = (
        "_crowding",
        "_featureless",
        "_kinds",
        "_mean",
        "_orders",
        "_slowness",
        "_unmatched",
        "_used",
        "_variance",
    )

    def __init__(self) -> None:
        self._mean = Mean()
        self._variance = self._mean.variance
        self._slowness = Slowness()
        self._crowding = Crowding()
        self._featureless: Kind | None = None
        self._kinds: dict[tuple[str, ...], Kind] = {}
        self._used: dict[tuple[str, ...], int] = {}
        self._orders: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._unmatched = 0

    @property
    def crowding(self) -> float:
        """The exponent gamma in [0, 1]: a request takes in_flight ** gamma times as long as alone."""
        return self._crowding.gamma

    @property
    def spread(self) -> float:
        """Deviation of the log of the seconds from what the model in use expected."""
        return sqrt(self._variance)

    def work(self, features: Features | None) -> float:
        """Return the seconds to expect, as a mean, on the fleet's typical replica with nothing beside it."""
        if self._mean.count == 0:
            return UNKNOWN_SECONDS
        names, values = self._read(features)
        kind = self._kinds.get(names) if names else self._featureless
        if kind is None:
            return self._seconds(self._mean.value + min(self._mean.variance, 2.0) / 2.0)
        return self._seconds(kind.predict(values) + kind.mean_factor)

    def _seconds(self, log_work: float) -> float:
        return bounded(exp(max(-50.0, min(50.0, log_work + self._shift))))

    @property
    def _shift(self) -> float:
        """What turns the log of internal work into that of a request alone on the typical replica."""
        return self._slowness.fleet.value - self._crowding.level

    def slowness(self, gpu: str, replica_id: str) -> float:
        """Return how many times as long a request takes there; 1 on the fleet's typical replica.

        An unknown replica is as slow as its GPU model, an unknown model as the fleet.
        """
        return self._slowness.factor(gpu, replica_id)

    def observe(self, features: Features | None, gpu: str, replica_id: str, seconds: float, in_flight: float) -> float:
        """Learn from one answered request; return seconds / (work · slowness) as they were expected before.

        Crowding stays in that ratio: it is what an adaptive limit looks for. ``in_flight`` counts the request itself.
        A number of seconds that is none teaches nothing and returns 1, and so does the first of all.
        """
        if not isfinite(seconds):
            return 1.0
        names, values = self._read(features)
        if not names:
            self._unmatched += 1
        kind = self._kind(names)
        log_in_flight = log(max(1.0, in_flight))
        crowded = self._crowding.expected(log_in_flight)
        seconds = bounded(seconds)
        offset = self._slowness.offset(gpu, replica_id)
        log_work = log(seconds) - offset - crowded
        mean_factor = kind.mean_factor
        is_first = self._mean.count == 0
        error = kind.observe(values, log_work)
        self._mean.observe(log_work)
        if is_first:
            return 1.0
        alone = error - mean_factor + self._crowding.gamma * log_in_flight
        variance = kind.variance
        self._variance += SPREAD_MEMORY * (min(error * error, TOGETHER * self._variance) - self._variance)
        if kind.is_known:
            self._crowding.observe(log_in_flight, clipped(error, variance), variance)
            self._slowness.observe(gpu, replica_id, error, variance)
        return bounded(exp(max(-50.0, min(50.0, alone))))

    def forget(self, replica_id: str) -> None:
        """Drop a replica that is gone."""
        self._slowness.forget(replica_id)

    def _read(self, features: Features | None) -> tuple[tuple[str, ...], Sequence[float]]:
        """Return the names in their one order and the values in it; nothing for what no model can use."""
        if not features:
            return (), ()
        try:
            order = tuple(features)
            names = self._orders.get(order)
            if names is None:
                names = tuple(sorted(order))
                if len(self._orders) >= MOST_ORDERS:
                    self._orders.clear()
                self._orders[order] = names
            values = [float(features[name]) for name in names]
        except OverflowError:  # an int that no float can hold
            return (), ()
        return (names, values) if all(map(isfinite, values)) else ((), ())

    def _kind(self, names: tuple[str, ...]) -> Kind:
        """Return the model of the requests with these names; the least recently used gives way to a new one."""
        if not names:
            if self._featureless is None:
                self._featureless = Kind((), self._mean)
            return self._featureless
        kind = self._kinds.get(names)
        if kind is None:
            if len(self._kinds) >= MOST_KINDS:
                oldest = min(self._used, key=self._used.__getitem__)
                del self._kinds[oldest], self._used[oldest]
            kind = self._kinds[names] = Kind(names, self._mean)
        self._used[names] = self._mean.count
        return kind

    def statistics(self) -> CostStatistics:
        """Say what was learned."""
        kinds = {", ".join(names): kind for names, kind in self._kinds.items()}
        if self._featureless is not None:
            kinds["no features"] = self._featureless
        return CostStatistics(
            observations=self._mean.count,
            unmatched=self._unmatched,
            spread=self.spread,
            crowding=self.crowding,
            kinds={
                name: KindStatistics(
                    in_use=kind.in_use,
                    formula=kind.formula(self._shift),
                    error=sqrt(kind.variance),
                    mean_error=sqrt(kind.mean.variance),
                    shares=kind.shares,
                    observations=kind.count,
                )
                for name, kind in kinds.items()
            },
            gpus=self._slowness.gpus(),
            replicas=self._slowness.replicas(),
        )


def bounded(number: float) -> float:
    """Return ``number`` within what the model can hold."""
    return max(SHORTEST, min(LONGEST, number))
