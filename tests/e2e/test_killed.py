"""Whatever is killed with SIGKILL: containers that were well go on as the same processes, and the rest is mended."""

import contextlib
import signal

import psutil
import pytest

from muster.processes.locks import holder_of
from muster.processes.server import LOCK
from tests.e2e.world import IDLE, SERVE, World, assert_legal, is_alive

pytestmark = pytest.mark.slow

DAEMON = "setsid sleep 2000 & "
"""Something that a command leaves in a session of its own."""


def test_a_killed_server_comes_back_at_its_address_with_the_same_containers(shared: World) -> None:
    shared.deploy("steady", 2, SERVE, is_service=True)
    pids, url, before = shared.pids(), shared.profile.url, shared.events()

    shared.kill_server()

    assert shared.profile.url == url
    shared.until(lambda: f"muster is ready again at {url}" in shared.up_output.read_text(), "up says so")
    assert shared.pids() == pids
    shared.cli("scale", "steady", "3")  # which it can only do once it has looked at what runs
    shared.until_ready(shared.listed("ps")[0]["uuid"], 3)
    assert {uuid: found for uuid, found in shared.pids().items() if uuid in pids} == pids
    after = shared.events()
    assert after[: len(before)] == before
    assert not {event.container_uuid for event in after[len(before) :]} & set(pids), "nothing happened to the first two"
    assert_legal(after)
    shared.cli("delete", "steady", "-y")


@pytest.mark.parametrize("victim", ["command", "shim"])
def test_a_killed_container_is_replaced_and_nothing_of_it_is_left(shared: World, victim: str) -> None:
    deployment = shared.deploy("fragile", 1, DAEMON + IDLE)
    (old,) = shared.live(deployment)
    processes = shared.until(lambda: _with_daemon(shared, old.uuid), "it and its daemon run")

    if victim == "shim":
        shared.kill(shared.shim_pid(old.uuid))
    else:
        shared.kill(next(each.pid for each in processes if each.cmdline() == ["sleep", "1000"]))

    new = shared.until(
        lambda: next((each for each in shared.live(deployment) if each.uuid != old.uuid and each.is_ready), None),
        "a substitute",
    )
    shared.until(lambda: set(shared.commands()) == {new.uuid}, "also its daemon is gone")
    assert not any(is_alive(each) for each in processes)
    (ended,) = [each for each in shared.ask(lambda client: client.containers_of(deployment)) if each.uuid == old.uuid]
    assert (ended.status, ended.reason) == ("shutdown", "error")
    assert_legal(shared.events())
    shared.cli("delete", "fragile", "-y")
    shared.until(lambda: not shared.commands(), "nothing runs")


def test_a_killed_daemon_of_a_container_changes_nothing(shared: World) -> None:
    deployment = shared.deploy("calm", 1, DAEMON + IDLE)
    (container,) = shared.live(deployment)
    processes = shared.until(lambda: _with_daemon(shared, container.uuid), "it and its daemon run")
    events = shared.events()
    shared.kill(next(each.pid for each in processes if each.cmdline()[-1] == "2000"))
    assert shared.live(deployment) == [container]
    assert shared.events() == events
    shared.cli("delete", "calm", "-y")


def test_a_server_that_cannot_start_again_is_tried_until_it_can(shared: World) -> None:
    """What was ready before is right as told; a world that is out of order for a while must not end ``up``."""
    shared.deploy("patient", 1)
    pids, killed = shared.pids(), shared.server_pid
    begin = len(shared.up_output.read_text())
    ((revision,),) = shared.rows("SELECT version_num FROM alembic_version")
    shared.write("UPDATE alembic_version SET version_num = '9999'")
    shared.kill(killed)
    shared.until(lambda: "is of a newer muster" in shared.up_output.read_text()[begin:], "up says what is wrong")
    shared.write(f"UPDATE alembic_version SET version_num = '{revision}'")
    shared.until(lambda: "muster is ready again" in shared.up_output.read_text()[begin:], "it is back")
    assert shared.pids() == pids
    shared.cli("delete", "patient", "-y")


def test_a_killed_supervisor_leaves_a_server_that_the_next_one_adopts(world: World) -> None:
    world.deploy("steady", 1)
    pids, server, up = world.pids(), world.server_pid, world.up_pid
    assert up is not None
    world.kill(up)
    assert world.ask(lambda client: client.is_ready()), "the server goes on"

    world.up(verb="adopted")
    assert world.server_pid == server
    servers = [pid for pid, words in world.command_lines() if "muster.processes.server" in words]
    assert servers == [server], "there is no second one"

    url = world.profile.url
    assert world.kill_server() != server, "what was adopted is watched"
    assert world.profile.url == url, "though this supervisor was told to take any port"
    assert world.pids() == pids


def test_when_supervisor_and_server_are_killed_the_next_up_adopts_the_containers(world: World) -> None:
    deployment = world.deploy("steady", 2)
    pids, events, up, server = world.pids(), world.events(), world.up_pid, world.server_pid
    assert up is not None
    world.kill(up)
    world.kill(server)
    assert holder_of(world.home / LOCK) is None
    assert world.pids() == pids, "containers need neither"

    world.up()
    assert {each.uuid for each in world.until_ready(deployment, 2)} == set(pids)
    assert world.pids() == pids
    assert world.events() == events


def test_ctrl_c_ends_the_server_and_leaves_the_containers_and_down_ends_them(world: World) -> None:
    deployment = world.deploy("steady", 1)
    pids, server, up = world.pids(), psutil.Process(world.server_pid), psutil.Process(world.up_pid)
    up.send_signal(signal.SIGINT)
    world.until(lambda: not is_alive(up), "the end of up")
    assert not is_alive(server), "the server ended first"
    assert world.pids() == pids, "containers go on"
    assert "containers go on" in world.up_output.read_text()
    refused = world.run("ps")
    assert refused.code == 1
    assert refused.err.startswith("error: cannot reach")

    world.up()
    assert [each.uuid for each in world.until_ready(deployment, 1)] == list(pids)
    assert world.pids() == pids

    assert "ended 1 container\n" in world.cli("down")
    assert world.processes() == []
    assert world.cli("down") == "ended 0 containers\n", "twice is fine"


def _with_daemon(world: World, uuid: str) -> list[psutil.Process] | None:
    """Return its processes once each has become what it is to be: a shell may still be on its way to that."""
    found = world.commands().get(uuid, [])
    with contextlib.suppress(psutil.Error):
        if sorted(each.cmdline() for each in found) == [["sleep", "1000"], ["sleep", "2000"]]:
            return found
    return None
