"""How many requests one replica may hold at once, where nobody declared it.

Sought is the knee: the lowest number that gives nearly all of the throughput. More only lets requests wait in the
replica instead of in the queue, where they still can go elsewhere, be ordered, and be refused in time.

Let T(n) be how long requests take, relative to their size, while their replica holds n. Throughput is n / T(n), so what
counts is the elasticity e = d log T / d log n: 0 where one more costs the others nothing (free slots, a batch that
is not full), 1 where one more buys nothing. The limit grows while e is clearly below 1, in **trials**:

* Two levels, ``low`` and ``high``, take turns in blocks of answers. A request counts for the level that held when it
  began, whenever it ends, and only if it began in the trial: of those under way at an instant most are long ones.
  Taking turns makes the comparison independent of drift.
* Compared are sums of seconds relative to sums of expected seconds (``trial.py``), not single latencies. (Netflix's
  Gradient2 and TCP Vegas compare a latency with the lowest or mean one seen before: with requests of unlike size that
  ratio is noise, and they grow or collapse by it.)
* What is expected is learned from the same requests, and a model that learns fast takes every slowdown for granted
  before a long block is over. So sums of plain seconds, which need more answers, have a veto, and where blocks are
  long they have to agree.
* The first to end of those that began together are the short ones, which makes a new level look fast. So one level wins
  only when the other has just had its turn and its own long requests have ended.

Before the first trial there is an **opening** (``opening.py``): while somebody waits, the limit doubles after a few
answers at each step, up to ``OPEN_UP_TO``, unless requests get slower about in proportion. A client that has just
started would otherwise hold back most of what its replicas can do until hundreds of answers prove it; what is too much
is found by the trials that follow.

The first trials double the limit; when one has failed, upward steps are by the root of two where ratios are exact.
After a trial that changed nothing there is a rest, longer every time, and the next trial goes in the other direction,
to half: so a knee that moved is found again, at once where requests get clearly slower or faster in a rest. Nothing is
tried and nothing grows while nobody waits for a slot.

Who lets somebody else choose sees only a part of this, and is told what that one has found (``follow``).
"""

import math
from collections import deque
from typing import NamedTuple

from muster.balancer.opening import OPEN_UP_TO, Opening
from muster.balancer.trial import FEW, LevelStatistics, Noise, Noises, Sums, Trial, Verdict

HIGHEST = 1024
"""More than any server of models batches; where requests only wait for others, more helps nobody either."""

REST_AT_LEAST, REST_AT_MOST = 64, 10_000
REST_FACTORS = (8, 16, 32)
"""A rest lasts that many times as many answers as the trial before it: trials are 11 %, then 3 % of all."""
REST_FACTOR_UNCLEAR = 2
"""After a trial that ended without evidence."""

OPENED_REST = 512
"""After the opening: it ends near the knee, and a trial holds back half of the replicas' work half of the time, which a
client that has just started and has a queue can least afford."""

PATIENCE = 16
"""So many answers in a row for which nobody waited, and the trial pauses."""

WINDOW = 128
"""Answers whose mean is compared with that of the first as many that rested at the same limit."""
NEWS = 0.25
"""Log of the least change that ends a rest."""
NEWS_DEVIATIONS = 4.0
"""And so many deviations of its noise: by chance once in some ten thousand windows."""


class LimitStatistics(NamedTuple):
    """A limit for people: ``doing`` says in words what it is about; ``noise`` is the deviation of ratios.

    ``levels`` are those of the present trial, or of the last.
    """

    value: int
    doing: str
    noise: float
    levels: tuple[LevelStatistics, ...]
    answers: int


class AdaptiveLimit:
    """The limit of one GPU model's replicas of one service. Without ``opens`` it begins with trials."""

    def __init__(self, *, opens: bool = True) -> None:
        self.value = 1
        self._base = 1
        self._is_doubling = self._goes_up = True
        self._began: deque[tuple[float, int]] = deque([(-math.inf, 1)], maxlen=16)
        self._trial: Trial | None = None
        self._opening = Opening() if opens else None
        self._noises = Noises(Noise(), Noise())
        self._answers = self._unwanted = self._rests = 0
        self._rest = FEW
        self._calm, self._recent = Sums(), Sums()
        self._levels: tuple[LevelStatistics, ...] = ()

    def observe(
        self, in_flight: float, ratio: float, is_wanted: bool, now: float, granted_at: float | None = None
    ) -> None:
        """Learn from one answered request.

        ``in_flight``: about how many its replica held meanwhile, 1 when it was alone. ``ratio``: its seconds relative
        to what was expected of it alone. ``is_wanted``: somebody waited for a slot meanwhile. ``granted_at``: when it
        began; without it a request counts as if it had begun when it ended, and all as equally long, which blurs
        trials with long requests.
        """
        if not 0.0 < ratio < math.inf:
            return
        began = now if granted_at is None else granted_at
        seconds = ratio if granted_at is None else max(now - granted_at, 1e-6)
        self._answers += 1
        self._unwanted = 0 if is_wanted else self._unwanted + 1
        if self._opening is not None:
            self._open(self._opening, max(1.0, in_flight), seconds, ratio, is_wanted=is_wanted, began=began, now=now)
            return
        trial = self._trial
        if trial is None:
            self._rest -= 1
            self._look_for_news(seconds, seconds / ratio)
            if self._rest <= 0 and is_wanted:
                self._try(now)
            return
        trial.observe(self._limit_at(began), began, max(1.0, in_flight), seconds, seconds / ratio)
        if self._unwanted >= PATIENCE:
            self._set(self._base, now)
            trial.pause(self.value)
        elif is_wanted and trial.is_block_over:
            verdict = trial.verdict()
            if verdict is None:
                self._set(trial.next_block(now), now)
            else:
                self._decide(trial, verdict, now)

    @property
    def found(self) -> int:
        """What is known to be good: the value, apart from what a trial tries."""
        return self._base

    @property
    def is_open(self) -> bool:
        """Whether it is known to be only a beginning."""
        return self._opening is not None

    def follow(self, limit: int, now: float) -> None:
        """Take over what somebody else has found, and go on from there when that one says no more.

        What is less than an opening reaches opens on; more is held for as long as after an opening.
        """
        limit = max(1, min(limit, HIGHEST))
        if limit != self._base:
            self._base = limit
            self._calm, self._recent = Sums(), Sums()
        self._set(limit, now)
        self._trial = None
        self._rest = OPENED_REST
        self._opening = None if limit >= OPEN_UP_TO else self._opening or Opening()
        if self._opening is not None:
            self._opening.next_step()

    def describe(self) -> LimitStatistics:
        """Return its state for people."""
        levels = self._levels if self._trial is None else self._trial.statistics()
        if self._unwanted >= PATIENCE:
            doing = "waits until somebody waits for a slot"
        elif self._opening is not None:
            doing = "opens"
        elif self._trial is None:
            doing = f"rests for {max(0, self._rest)} answers"
        else:
            doing = f"compares {levels[0].limit} with {levels[1].limit}"
        return LimitStatistics(self.value, doing, math.sqrt(self._noises.ratios.variance), levels, self._answers)

    def _open(
        self,
        opening: Opening,
        in_flight: float,
        seconds: float,
        ratio: float,
        *,
        is_wanted: bool,
        began: float,
        now: float,
    ) -> None:
        """Take the next step up, or end the opening where it got."""
        opening.observe(in_flight, seconds, ratio, is_fresh=began >= self._began[-1][0])
        if not is_wanted or not opening.is_step_over(self.value):
            return
        if opening.is_worthless:
            self._goes_up = False
            limit = max(1, self.value // 2)
        else:
            limit = self.value * 2
        opening.next_step()
        if opening.is_worthless or limit > OPEN_UP_TO:
            self._opening = None
            limit = min(limit, OPEN_UP_TO)
            self._is_doubling = not opening.is_worthless
            self._rest = OPENED_REST
        self._set(limit, now)
        self._base = limit

    def _set(self, limit: int, now: float) -> None:
        if limit != self.value:
            self.value = limit
            self._began.append((now, limit))

    def _limit_at(self, when: float) -> int:
        for since, limit in reversed(self._began):
            if since <= when:
                return limit
        return 0

    def _try(self, now: float, before: Trial | None = None) -> None:
        """Begin a trial of the base against the next level; ``before`` knows the base from the trial just ended."""
        base = self._base
        if base == 1:
            self._goes_up = True
        elif base >= HIGHEST:
            self._goes_up = False
        if self._goes_up:
            is_coarse = self._is_doubling or self._noises.ratios.is_high
            low, high = base, min(HIGHEST, max(base + 1, round(base * (2.0 if is_coarse else math.sqrt(2.0)))))
        else:
            low, high = base // 2, base
        self._trial = Trial(low, high, base, self._noises, now, before=before)
        if before is not None:
            self._set(self._trial.next_block(now), now)

    def _decide(self, trial: Trial, verdict: Verdict, now: float) -> None:
        self._levels, self._trial = trial.statistics(), None
        self._recent = Sums()
        self._set(verdict.limit, now)
        if verdict.limit != self._base:
            self._calm = Sums()
            self._goes_up = verdict.limit > self._base
            self._base = verdict.limit
            self._rests = 0
            if self._base > 1:
                self._try(now, trial)
                return
        self._is_doubling = False
        self._goes_up = not self._goes_up
        factor = REST_FACTORS[self._rests] if verdict.is_clear else REST_FACTOR_UNCLEAR
        self._rests = min(self._rests + 1, len(REST_FACTORS) - 1)
        self._rest = min(REST_AT_MOST, max(REST_AT_LEAST, factor * trial.answers))

    def _look_for_news(self, seconds: float, expected: float) -> None:
        """End the rest when requests take clearly more or less than in the first rest at this limit."""
        if self._calm.count < WINDOW:
            self._calm.add(seconds, expected)
            return
        self._recent.add(seconds, expected)
        if self._recent.count < WINDOW:
            return
        change = math.log(self._recent.relative / self._calm.relative)
        self._recent = Sums()
        if abs(change) > max(NEWS, NEWS_DEVIATIONS * math.sqrt(2.0 * self._noises.ratios.variance / WINDOW)):
            self._calm = Sums()
            self._rest = self._rests = 0
            self._goes_up = change < 0
