"""Learns how much longer a request takes because others run beside it: seconds ~ in_flight ** gamma.

gamma 0 is a replica that serves its slots in parallel for nothing (batching, waiting), 1 is one that shares one
processor out. It can be seen only where the number in flight varies, so the regressor is the log of the number less its
mean, and the level that belongs to the mean is kept out of the work by ``level``: when gamma moves, what the model
expects at the usual crowding stays, and what it expects of a request alone moves.

* A prior at 0 of PRIOR observations that vary between one and two in flight.
* The answer is the estimate less one deviation of it: noise then says 0, and a true gamma is a little underestimated.
* Memory: 1,000 observations; gamma is a property of the program that serves, not of the day.
"""

from math import log, sqrt

MEMORY = 0.001
PRIOR = 20
PRIOR_PRECISION = PRIOR * (log(2.0) / 2.0) ** 2


class Crowding:
    """The exponent gamma and the level that it implies."""

    __slots__ = ("_count", "_mean", "_product", "_square", "gamma", "level")

    def __init__(self) -> None:
        self.gamma = 0.0
        self.level = 0.0
        self._mean = 0.0
        self._count = 0
        self._square = 0.0
        self._product = 0.0

    def expected(self, log_in_flight: float) -> float:
        """Return what crowding adds to the log of the seconds, relative to ``level``."""
        return self.gamma * log_in_flight - self.level

    def observe(self, log_in_flight: float, error: float, variance: float) -> None:
        """Learn one residual of the log of the seconds."""
        self._count += 1
        gain = max(1.0 / self._count, MEMORY)
        centred = log_in_flight - self._mean
        self._mean += gain * centred
        self._square += centred * centred - MEMORY * self._square
        self._product += centred * (error + self.gamma * centred) - MEMORY * self._product
        precision = self._square + PRIOR_PRECISION
        gamma = (self._product - sqrt(variance * self._square)) / precision
        gamma = max(0.0, min(1.0, gamma))
        self.level += (gamma - self.gamma) * self._mean
        self.gamma = gamma
