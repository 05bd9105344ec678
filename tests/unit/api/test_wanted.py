"""Writes of the API that meet somebody else's write."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from muster.api.wanted import write
from muster.errors import StaleWrite
from muster.model.account import Role
from muster.store.port import Changes, Transaction
from tests.compat.world import World

T = TypeVar("T")


class Contended:
    """A store in which the first ``times`` writes come too late."""

    def __init__(self, world: World, times: int) -> None:
        self._store = world.store
        self.times = times

    async def read(self, work: Callable[[Transaction], T]) -> T:
        return await self._store.read(work)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        self.times -= 1
        if self.times >= 0:
            raise StaleWrite("somebody else wrote first")
        return await self._store.write(work)

    def on_commit(self, listener: Callable[[Changes], None]) -> None:
        self._store.on_commit(listener)

    async def aclose(self) -> None:
        await self._store.aclose()


def furnished(folder: Path) -> World:
    World.furnish(folder)
    return World(folder)


def test_a_write_that_came_too_late_is_decided_again(tmp_path: Path) -> None:
    with furnished(tmp_path) as world:
        late = Contended(world, times=4)
        account = world.run(write(late, lambda tx: tx.accounts.add("team-a", Role.MEMBER, world.clock.now())))
        assert world.read(lambda tx: tx.accounts.by_name("team-a")) == account
        assert late.times == -1


def test_a_write_that_is_always_late_is_given_up(tmp_path: Path) -> None:
    with furnished(tmp_path) as world:
        with pytest.raises(StaleWrite):
            world.run(write(Contended(world, times=5), lambda tx: tx.accounts.add("x", Role.MEMBER, world.clock.now())))
        assert world.read(lambda tx: tx.accounts.by_name("x")) is None
