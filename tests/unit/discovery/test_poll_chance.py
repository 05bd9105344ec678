"""Anything may happen to an account and to its API: nobody unseen is believed in, and in the end all is right."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from muster.discovery.poll import PollFeed
from muster.model.deployment import PORTS
from muster.model.endpoint import ServiceKey
from muster.testing.scripted_world import ScriptedWorld
from tests.unit.discovery.poll_ground import Ground

STEPS = 40


class Witness:
    """Notes when the last whole reading that succeeded began, and what the feed believes may be no older."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._feed: PollFeed = ground.feed
        self._began = 0.0
        world = self._feed._world
        read_all = world.read_all

        async def noted(**how: Any) -> None:
            began = ground.loop.time()
            await read_all(**how)
            self._began = began

        world.read_all = noted  # type: ignore[method-assign]

    def check(self) -> None:
        if not self._feed._world._is_account_wide:
            return  # there a poll may rightly leave out a deployment without news
        for deployment in self._feed._world.present:
            for endpoints in self._feed._state(deployment).endpoints.values():
                for endpoint in endpoints:
                    assert self._ground.world.told_running[endpoint.id] >= self._began


def change(world: ScriptedWorld, chance: random.Random) -> None:
    """Let one thing happen to the account."""
    deployments, running = list(world.deployments()), world.running()
    ended = [each.uuid for each in world._containers.values() if each.status == "shutdown" and not each.is_released]
    happenings: list[Callable[[], object]] = [lambda: world.add_deployment(chance.choice(["asr", "tts", "ocr"]))]
    if deployments:
        some = chance.choice(deployments)
        happenings += [lambda: world.run(some, chance.randint(1, 4), ports=chance.choice([(6006,), PORTS]))] * 3
        happenings += [lambda: world.run(some, is_ready=False), lambda: world.create(some)]
        if chance.random() < 0.3:
            happenings += [
                lambda: world.delete(some),
                lambda: world.recreate(some),
                lambda: world.stop_deployment(some),
            ]
    if running:
        one = chance.choice(running)
        happenings += [lambda: world.stop(one)] * 3
        happenings += [lambda: world.set_ready(one, chance.random() < 0.7)] * 2
    if ended and deployments:
        happenings += [lambda: world.reuse(chance.choice(ended), chance.choice(deployments))]
    chance.choice(happenings)()


def misbehave(world: ScriptedWorld, chance: random.Random) -> None:
    world.troubles.chance(chance.choice([0, 0, 0.1, 0.4, 0.9]), seconds=chance.choice([0.5, 8, 30]))
    world.is_down = chance.random() < 0.1
    world.is_cut_off = chance.random() < 0.1
    world.page_cap = chance.choice([3, 10, 100])
    if chance.random() < 0.5:
        world.holds_events = True
    else:
        world.release_events()


def calm(world: ScriptedWorld) -> None:
    world.troubles.clear()
    world.is_down = world.is_cut_off = False
    world.release_events()


def check_exact(ground: Ground) -> None:
    world = ground.world
    ages = {each.uuid: (each.created_at, each.id) for each in world._deployments.values()}
    live = world.deployments()
    for uuid, name in live.items():
        for port in PORTS:
            assert ground.names(uuid, port) == world.serving(uuid, port)
        oldest = min((each for each in live if live[each] == name), key=lambda each: ages[each])
        assert ground.alias(uuid, name) == oldest
    for uuid, state in ground.view.items():
        if uuid not in live:
            assert [ground.names(uuid, port) for port in PORTS] == [world.serving(uuid, port) for port in PORTS]
            assert state.endpoints.keys() == {ServiceKey("home", uuid, port) for port in PORTS}


@pytest.mark.slow
@pytest.mark.parametrize("refuses", [False, True])
@given(seed=st.integers(0, 10**9))
@settings(max_examples=20, phases=[Phase.reuse, Phase.generate])  # a smaller seed is no simpler world
def test_whatever_happens_nobody_unseen_is_believed_in_and_the_end_is_exact(refuses: bool, seed: int) -> None:
    chance = random.Random(seed)
    ground = Ground(seed)
    ground.world.refuses_account_wide = refuses
    witness = Witness(ground)
    ground.watch()
    try:
        for _ in range(STEPS):
            for _ in range(chance.randint(0, 3)):
                change(ground.world, chance)
            if chance.random() < 0.2:
                misbehave(ground.world, chance)
            for _ in range(chance.randint(1, 5)):
                ground.advance(chance.choice([0.01, 0.3, 2.0, 5.0]))
                witness.check()
        calm(ground.world)
        ground.advance(150)
        check_exact(ground)
    finally:
        ground.close()
