"""All 1,797 images again and again through the balanced client, 32 at a time, until told to stop."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import numpy as np
from sklearn.datasets import load_digits

from examples.digits.service import train

AT_ONCE = 32


@dataclass
class Tally:
    """What came of the requests so far. ``latencies`` are seconds, in order of completion."""

    images: int
    answered: int = 0
    correct: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    @property
    def passes(self) -> int:
        """How many times every image has been sent."""
        return self.answered // self.images

    @property
    def failed(self) -> int:
        """How many requests were given up."""
        return self.failures.total()

    def percentile(self, percent: float, since: int = 0) -> float:
        """Return a percentile of the latency in seconds, of the requests answered from number ``since`` on."""
        return float(np.percentile(self.latencies[since:] or [0.0], percent))


def expected_accuracy() -> float:
    """Return the accuracy over all images of the same model, trained and asked in this process."""
    images, digits = load_digits(return_X_y=True)
    return float((train().predict(images) == digits).mean())


class Load:
    """Sends images until ``finish``; whole passes only, so that the accuracy is over every image equally often."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        images, digits = load_digits(return_X_y=True)
        self._bodies = [{"image": image.tolist()} for image in images]
        self._digits = digits
        self._next = 0
        self._is_finishing = False
        self.tally = Tally(len(self._bodies))

    def finish(self) -> None:
        """Stop at the end of the pass that is under way."""
        self._is_finishing = True

    async def run(self) -> None:
        """Send, 32 at a time, until told to finish."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._work())

    async def _work(self) -> None:
        while (number := self._take()) is not None:
            begun = time.perf_counter()
            try:
                response = await self._client.post(
                    "/classify", json=self._bodies[number], extensions={"muster": {"idempotent": True}}
                )
                response.raise_for_status()
                is_correct = response.json()["digit"] == int(self._digits[number])
            except httpx.HTTPError as error:
                self.tally.failures[f"{type(error).__name__}: {error}"] += 1
                continue
            self.tally.answered += 1
            self.tally.correct += is_correct
            self.tally.latencies.append(time.perf_counter() - begun)

    def _take(self) -> int | None:
        if self._is_finishing and self._next % self.tally.images == 0:
            return None
        number, self._next = self._next % self.tally.images, self._next + 1
        return number
