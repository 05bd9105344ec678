"""Machines as their admin sees them, on real processes: emptied without a gap, also when the server dies meanwhile."""

import threading
from collections.abc import Sequence

import pytest

from muster.client import Container, Machine
from tests.e2e.world import World, assert_legal

pytestmark = pytest.mark.slow


def machine(world: World, machine_id: str) -> Machine:
    return next(each for each in world.ask(lambda client: client.machines()) if each.id == machine_id)


def host_of(containers: Sequence[Container]) -> str:
    """Return the one machine that all of these are on."""
    (found,) = {each.machine_id for each in containers}
    return found


def moved(world: World, uuid: str, away_from: str, count: int) -> list[Container]:
    """Wait until so many are ready elsewhere and nothing is left where they were."""
    return world.until(
        lambda: (
            [
                each
                for each in world.until_ready(uuid, count)
                if not machine(world, away_from).containers_left and each.machine_id != away_from
            ]
            or None
        ),
        f"{count} are ready away from {away_from}",
    )


def test_a_drain_waits_until_all_are_ready_elsewhere_and_never_leaves_fewer(world: World) -> None:
    uuid = world.deploy("asr", 3)
    host = host_of(world.until_ready(uuid, 3))
    fewest, is_over = 3, threading.Event()

    def watch() -> None:
        nonlocal fewest
        while not is_over.wait(0.02):
            fewest = min(fewest, sum(each.is_ready for each in world.live(uuid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        said = world.cli("machines", "drain", host)
    finally:
        is_over.set()
        watcher.join()
    assert f"{host}: is empty and gets nothing new" in said
    assert fewest == 3
    assert host_of(world.until_ready(uuid, 3)) != host
    assert machine(world, host).state == "drained"
    ended = [each for each in world.events() if each.container_uuid.split("-")[1] == host and each.status == "shutdown"]
    assert {each.reason for each in ended} == {"host_drained"}
    assert_legal(world.events())

    world.cli("machines", "uncordon", host)
    world.scale(uuid, 8)
    assert {each.machine_id for each in world.until_ready(uuid, 8)} > {host}


def test_a_drain_goes_on_when_the_server_was_killed_in_it(world: World) -> None:
    uuid = world.deploy("asr", 4)
    host = host_of(world.until_ready(uuid, 4))
    world.cli("machines", "drain", host, "--no-wait")
    world.kill_server()
    assert len(moved(world, uuid, host, 4)) == 4
    assert machine(world, host).state == "drained"
    assert_legal(world.events())


def test_what_runs_on_a_blacklisted_machine_stays_and_what_is_new_goes_elsewhere(world: World) -> None:
    uuid = world.deploy("asr", 1)
    host = host_of(world.until_ready(uuid, 1))
    world.cli("machines", "blacklist", host, "--comment", "too loud")
    world.scale(uuid, 3)
    assert sorted(each.machine_id == host for each in world.until_ready(uuid, 3)) == [False, False, True]
    assert [row["comment"] for row in world.listed("machines", "blacklisted")] == ["too loud"]
    world.cli("machines", "unblacklist", host)
    assert world.listed("machines", "blacklisted") == []
