"""Learns how slow each replica is, and each GPU model, beside the typical one of the fleet (a factor; typical is 1).

Offsets are kept on the log scale, one per replica. A new replica starts at its GPU's, a new GPU at the fleet's; each of
these priors has the weight of PRIOR observations. Then

* a slow change is followed with a memory of MEMORY observations of that replica: noise of deviation s in the log
  leaves 0.09 · s in the offset;
* a sudden one is found by a cumulative sum of standardised errors (Page, "Continuous Inspection Schemes", 1954, with
  the usual allowance 0.5 and threshold 8: one false alarm in about 20,000 requests, a shift of one deviation found in
  16, of three in 4) and the offset jumps by the mean error since the sum left zero.

What a fleet gives away is only the product of work and slowness. So slowness is told relative to the mean over recent
observations (``Anchor``), and work is what the typical replica takes: a fleet that becomes slower as a whole shows in
the work, and a replica that gets no traffic weighs nothing.
"""

from math import exp, log, log1p, sqrt

from muster.balancer.cost_kind import clipped

PRIOR = 4
MEMORY = 50
HORIZON = 256  # observations in which a share of the traffic is forgotten
ALLOWANCE = 0.5
THRESHOLD = 8.0
FURTHEST_JUMP = log(4.5)  # a few stuck requests must not banish a replica; a true change beyond it jumps again
FURTHEST = log(1000.0)  # from the fleet's


class Anchor:
    """The mean of its members' offsets, each weighed by its share of recent observations."""

    __slots__ = ("_faded", "count", "value")

    def __init__(self, value: float) -> None:
        self.value = value
        self.count = 0
        self._faded = 0.0  # log of what is left of a share from the beginning

    def held(self, share: "Share") -> float:
        """Return a member's part of the recent observations, from 0 to 1."""
        return share.held * exp(self._faded - share.noted)

    def observe(self, share: "Share", before: float, after: float) -> None:
        """Note one observation of a member and that its offset moved; the mean follows the move at once."""
        held = self.held(share)
        self.value += held * (after - before)
        gain = 1.0 / (min(self.count, HORIZON) + PRIOR)
        self.value += gain * (after - self.value)
        self.count += 1
        self._faded += log1p(-gain)
        share.held = held * (1.0 - gain) + gain
        share.noted = self._faded


class Share:
    """A member's part of an anchor's observations, as of when it was last noted."""

    __slots__ = ("held", "noted")

    def __init__(self) -> None:
        self.held = 0.0
        self.noted = 0.0


class _Speed:
    """What is known of one replica."""

    __slots__ = ("count", "fleet_share", "gpu", "gpu_share", "offset", "runs", "seen")

    def __init__(self, gpu: str, offset: float) -> None:
        self.gpu = gpu
        self.offset = offset
        self.count = 0  # observations that the offset rests on
        self.seen = 0
        self.gpu_share = Share()
        self.fleet_share = Share()
        self.runs = (_Run(1.0), _Run(-1.0))

    def observe(self, error: float, variance: float, share: float) -> None:
        """Move the offset by one residual; ``share`` is the replica's part of the fleet's observations."""
        self.seen += 1
        self.count = min(self.count + 1, MEMORY)
        # A replica that serves everything has nobody to be slower than: what it teaches is about the work.
        step = (1.0 - share) * clipped(error, variance) / (self.count + PRIOR)
        scaled = max(-3.0, min(3.0, error / sqrt(variance)))
        for run in self.runs:
            if run.alarms(scaled, error):
                step = max(-FURTHEST_JUMP, min(FURTHEST_JUMP, run.total / run.count))
                self.count = 0
                for each in self.runs:
                    each.restart()
        self.offset += step


class _Run:
    """One side of the cumulative sum: standardised errors of one sign beyond the allowance."""

    __slots__ = ("count", "sign", "total", "value")

    def __init__(self, sign: float) -> None:
        self.sign = sign
        self.restart()

    def restart(self) -> None:
        self.value = self.total = 0.0
        self.count = 0

    def alarms(self, scaled: float, error: float) -> bool:
        self.value += self.sign * scaled - ALLOWANCE
        if self.value <= 0.0:
            self.restart()
            return False
        self.count += 1
        self.total += error
        return self.value > THRESHOLD


class Slowness:
    """The speeds of a fleet."""

    __slots__ = ("_gpus", "_replicas", "fleet")

    def __init__(self) -> None:
        self.fleet = Anchor(0.0)
        self._gpus: dict[str, Anchor] = {}
        self._replicas: dict[str, _Speed] = {}

    def offset(self, gpu: str, replica_id: str) -> float:
        """Return the log of the factor, not yet relative to the fleet's."""
        speed = self._replicas.get(replica_id)
        if speed is not None and speed.gpu == gpu:
            return speed.offset
        anchor = self._gpus.get(gpu)
        return self.fleet.value if anchor is None else anchor.value

    def factor(self, gpu: str, replica_id: str) -> float:
        """Return how many times as long as on the fleet's typical replica a request takes."""
        return exp(self.offset(gpu, replica_id) - self.fleet.value)

    def observe(self, gpu: str, replica_id: str, error: float, variance: float) -> None:
        """Learn one residual of the log of the seconds, whose deviation is usually ``sqrt(variance)``."""
        anchor = self._gpus.get(gpu)
        if anchor is None:
            anchor = self._gpus[gpu] = Anchor(self.fleet.value)
        speed = self._replicas.get(replica_id)
        if speed is None or speed.gpu != gpu:
            speed = self._replicas[replica_id] = _Speed(gpu, anchor.value)
        before = speed.offset
        fleet = self.fleet
        speed.observe(error, variance, fleet.held(speed.fleet_share))
        speed.offset = max(fleet.value - FURTHEST, min(fleet.value + FURTHEST, speed.offset))
        anchor.observe(speed.gpu_share, before, speed.offset)
        fleet.observe(speed.fleet_share, before, speed.offset)

    def forget(self, replica_id: str) -> None:
        """Drop a replica that is gone; its GPU model keeps what it taught."""
        self._replicas.pop(replica_id, None)

    def gpus(self) -> dict[str, float]:
        """Return the factor of each GPU model."""
        return {gpu: exp(anchor.value - self.fleet.value) for gpu, anchor in sorted(self._gpus.items())}

    def replicas(self) -> dict[str, float]:
        """Return the factor of each replica that has been observed."""
        return {name: exp(speed.offset - self.fleet.value) for name, speed in sorted(self._replicas.items())}
