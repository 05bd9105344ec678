"""Two homes on one machine are strangers to each other, and what is secret stays inside of one."""

import contextlib
import stat
from pathlib import Path

import psutil
import pytest

from tests.e2e.world import World

pytestmark = pytest.mark.slow


def test_two_homes_side_by_side_never_touch_each_other(shared: World, tmp_path: Path) -> None:
    first = shared.deploy("twin", 2)
    before, server, events = shared.pids(), shared.server_pid, shared.events()
    with World(tmp_path) as other:
        other.deploy("twin", 1)
        assert not set(other.commands()) & set(before)
        assert other.profile.url != shared.profile.url
        machines = [{each.id for each in world.ask(lambda client: client.machines())} for world in (shared, other)]
        assert not machines[0] & machines[1]
        refused = other.run("ps", "--api", shared.profile.url, environ={"MUSTER_TOKEN": other.profile.token})
        assert "is the token right?" in refused.err
        other.kill_server()
        other.cli("delete", "twin", "-y")
        other.until(lambda: not other.commands(), "nothing of the other runs")
    assert (shared.pids(), shared.server_pid, shared.events()) == (before, server, events)
    assert len(shared.until_ready(first, 2)) == 2
    shared.cli("delete", "twin", "-y")


def test_the_admin_token_is_in_the_profile_and_nowhere_else(shared: World) -> None:
    token = shared.profile.token
    shared.deploy("prints", 1, "env; cat /proc/self/environ; sleep 1000")
    containers = shared.commands()
    shared.kill_server()  # a restarted server says nothing either

    assert shared.up_output.read_text().count(token) == 1, "the person is told once"
    holders = [file for file in shared.home.rglob("*") if file.is_file() and token.encode() in _content(file)]
    assert holders == [shared.home / "profile.json"], "no log, no database, no folder of a container"
    assert containers
    for process in shared.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            words, environ = process.cmdline(), process.environ()
            assert not any(token in word for word in words), process
            if "shim.py" in " ".join(words) or process.pid in _pids(containers):
                assert not any(token in value for value in environ.values()), process
                assert not {"MUSTER_ADMIN_TOKEN", "MUSTER_TOKEN", "MUSTER_HOME"} & set(environ)
    shared.cli("delete", "prints", "-y")


def test_the_home_and_what_is_secret_in_it_is_for_its_owner_only(shared: World) -> None:
    assert stat.S_IMODE(shared.home.stat().st_mode) == 0o700
    for name in ("profile.json", "muster.db", "server.lock", "up.lock"):
        assert stat.S_IMODE((shared.home / name).stat().st_mode) == 0o600, name


def test_a_token_that_was_told_is_used_and_not_shown(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.environ["MUSTER_ADMIN_TOKEN"] = "told-by-the-operator"
    with world:
        assert world.profile.token == "told-by-the-operator"
        assert world.listed("account", "ls")[0]["name"] == "admin"
        assert "told-by-the-operator" not in world.said()


def _pids(containers: dict[str, list[psutil.Process]]) -> set[int]:
    return {each.pid for found in containers.values() for each in found}


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
