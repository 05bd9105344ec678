"""The timer of a desk: it wakes it in time, and not for ever."""

import asyncio
import random

import pytest

from muster.balancer.balancer import Balancer
from muster.broker.desk import Desk
from muster.broker.served import Served
from muster.model.endpoint import ServiceKey


class Broken(Desk):
    """A desk that fails over what is due; it is due for ever."""

    ticks = 0

    @property
    def next_tick(self) -> float:
        return 0.0

    def tick(self) -> None:
        self.ticks += 1
        raise ZeroDivisionError


def test_a_desk_that_fails_is_looked_at_again_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        desk = Broken(Balancer("s", random.Random(1)), broker="b")
        served = Served(ServiceKey("account", "s"), desk)
        served.rearm()
        for _ in range(20):
            await asyncio.sleep(0.01)
            served.rearm()  # its visitors go on
        assert desk.ticks == 1
        assert len(caplog.records) == 1
        await asyncio.sleep(1.0)
        assert desk.ticks == 2

    asyncio.run(scenario())
