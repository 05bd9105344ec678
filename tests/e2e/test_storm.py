"""The server is killed again and again while it works; when it may rest, the world is exactly as wanted."""

import contextlib
import random
import subprocess
import time
from collections import Counter

import pytest

from muster.errors import ApiUnavailable
from tests.e2e.world import FLEET, MUSTER, World, assert_legal

pytestmark = pytest.mark.slow

KILLS = 20
SEED = 20260101


@pytest.mark.timeout(180)
def test_after_twenty_kills_exactly_what_is_wanted_runs_and_nothing_ran_twice(world: World) -> None:
    starts = world.user / "starts"
    deployment = world.deploy("storm", 2, f'echo "$MUSTER_CONTAINER_UUID" >> {starts}; exec sleep 1000')
    assert world.up_pid is not None
    world.kill(world.up_pid)  # it waits ever longer between restarts; here the next server starts at once
    rng = random.Random(SEED)
    for _ in range(KILLS):
        _scale(world, deployment, rng.randrange(7))
        time.sleep(rng.uniform(0, 0.3))  # the moment is the input: anywhere in what the server does now
        world.kill(world.server_pid)
        if rng.random() < 0.3:  # also while it starts
            with _server(world) as server:
                time.sleep(rng.uniform(0, 0.7))
                server.kill()
        _server(world)
    world.kill(world.server_pid)
    world.up()
    _scale(world, deployment, 3)

    def settled() -> bool:
        live = {each.uuid for each in world.live(deployment) if each.is_ready}
        return len(live) == 3 and set(world.commands()) == live

    world.until(settled, "three ready containers, and no processes but theirs")

    running = world.commands()
    assert [each.name() for found in running.values() for each in found] == ["sleep"] * 3
    assert sorted(running) == sorted(uuid for (uuid,) in world.rows(LIVE)), "the kernel and the database agree"
    assert world.rows(CLAIMS) == [(3,)], "nobody else holds a GPU"
    counted = Counter(starts.read_text().split())
    assert set(counted.values()) == {1}, "no container ran twice"
    assert set(running) <= set(counted)
    shims = [each for each in world.processes() if any("shim.py" in word for word in each.cmdline())]
    assert sorted(each.pid for each in shims) == sorted(world.shim_pid(uuid) for uuid in running)
    events = world.events()
    assert_legal(events)
    over = {event.container_uuid for event in events if event.status == "shutdown"}
    assert {event.container_uuid for event in events} == over | set(running), "whoever is not running is over"


LIVE = "SELECT uuid FROM containers WHERE stop_reason IS NULL AND status != 'shutdown'"
CLAIMS = "SELECT count(*) FROM gpu_claims"


def _scale(world: World, deployment: str, replicas: int) -> None:
    """Ask until the server has heard."""

    def ask() -> bool:
        with contextlib.suppress(ApiUnavailable):
            world.ask(lambda client: client.scale_deployment(deployment, replicas))
            return True
        return False

    world.until(ask, "the server hears")


def _server(world: World) -> "subprocess.Popen[bytes]":
    """Start a server where the last one was."""
    with world.up_output.open("ab") as output:
        port = world.profile.url.rpartition(":")[2]
        command = [MUSTER, "server", "--engine", "local", "--port", port, "--fake-gpus", FLEET]
        return world.adopt(
            subprocess.Popen(command, env=world.environ, stdout=output, stderr=output, start_new_session=True)
        )
