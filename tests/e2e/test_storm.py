"""The server is killed again and again while it works; when it may rest, the world is exactly as wanted."""

import random
import time
from collections import Counter

import pytest

from tests.e2e.world import World, assert_legal

pytestmark = pytest.mark.slow

KILLS = 20
SEED = 20260101


def test_after_twenty_kills_exactly_what_is_wanted_runs_and_nothing_ran_twice(world: World) -> None:
    starts = world.user / "starts"
    deployment = world.deploy("storm", 2, f'echo "$MUSTER_CONTAINER_UUID" >> {starts}; exec sleep 1000')
    assert world.up_pid is not None
    world.kill(world.up_pid)  # it waits ever longer between restarts; here the next server starts at once
    rng = random.Random(SEED)
    for _ in range(KILLS):
        world.scale(deployment, rng.randrange(7))
        time.sleep(rng.uniform(0, 0.3))  # the moment is the input: anywhere in what the server does now
        world.kill(world.server_pid)
        if rng.random() < 0.3:  # also while it starts
            with world.start_server() as server:
                time.sleep(rng.uniform(0, 0.7))
                server.kill()
        world.start_server()
    world.kill(world.server_pid)
    world.up()
    world.scale(deployment, 3)

    def settled() -> bool:
        live = {each.uuid for each in world.live(deployment) if each.is_ready}
        commands = world.commands()
        # The last claim is given up in a commit after the last process has ended, a shell becomes what it runs, and a
        # shim ends, each in its own time after what it is told by.
        return (
            len(live) == 3
            and set(commands) == live
            and [each.name() for found in commands.values() for each in found] == ["sleep"] * 3
            and sorted(shims(world)) == sorted(world.shim_pid(uuid) for uuid in live)
            and world.rows(CLAIMS) == [(3,)]
        )

    world.until(settled, "three ready containers, and no processes and GPUs but theirs")

    running = world.commands()
    assert sorted(running) == sorted(uuid for (uuid,) in world.rows(LIVE)), "the kernel and the database agree"
    counted = Counter(starts.read_text().split())
    assert set(counted.values()) == {1}, "no container ran twice"
    assert set(running) <= set(counted)
    events = world.events()
    assert_legal(events)
    over = {event.container_uuid for event in events if event.status == "shutdown"}
    assert {event.container_uuid for event in events} == over | set(running), "whoever is not running is over"


def shims(world: World) -> list[int]:
    """Return the processes that keep containers."""
    return [pid for pid, words in world.command_lines() if any("shim.py" in word for word in words)]


LIVE = "SELECT uuid FROM containers WHERE stop_reason IS NULL AND status != 'shutdown'"
CLAIMS = "SELECT count(*) FROM gpu_claims"
