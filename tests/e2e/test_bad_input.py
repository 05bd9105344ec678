"""What a person can get wrong: one line that begins with ``error: `` and says what to do, exit code 1, no traceback."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import IDLE, Result, World

pytestmark = pytest.mark.slow


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[World]:
    """A home in which nothing runs yet, and nothing does afterwards."""
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with two deployments of one name."""
    with World(tmp_path_factory.mktemp("used")) as world:
        world.deploy("twin", 0)
        world.deploy("twin", 0)
        yield world


def refusal(result: Result) -> str:
    """Return the one line of a refusal, checked to be one."""
    assert result.code == 1, result
    assert "Traceback" not in result.out + result.err, result
    (line,) = result.err.splitlines()
    assert line.startswith("error: "), result
    return line.removeprefix("error: ")


@pytest.mark.parametrize("process", ["up", "server"])
def test_a_port_in_use_is_named(quiet: World, process: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(quiet.run(process, "--engine", "local", "--port", str(port)))
    assert said.startswith(
        f"cannot listen on 127.0.0.1 port {port} (Address already in use); choose another with --port"
    )


def test_a_home_of_a_newer_version_is_left_alone(quiet: World) -> None:
    quiet.up()
    quiet.cli("down")
    quiet.write("UPDATE alembic_version SET version_num = '9999'")
    for process in ("up", "server"):
        said = refusal(quiet.run(process, "--engine", "local", "--port", "0"))
        assert "is of a newer muster (revision 9999" in said
        assert "upgrade muster, or use another home" in said


def test_a_folder_that_cannot_be_written_is_named(quiet: World) -> None:
    """``/proc`` takes no folders, from root neither."""
    said = refusal(quiet.run("up", "--engine", "local", "--port", "0", "--home", "/proc/muster"))
    assert said.startswith("/proc/muster: cannot be written")
    assert said.endswith("choose another folder with --home")


def test_a_home_below_a_file_is_named(quiet: World) -> None:
    file = quiet.user / "file"
    file.touch()
    for home in (file, file / "home"):
        said = refusal(quiet.run("up", "--engine", "local", "--port", "0", "--home", str(home)))
        assert said == f"{home}: is no folder and cannot become one; choose another with --home"


def test_a_second_server_and_a_second_supervisor_are_refused(used: World) -> None:
    server = refusal(used.run("server", "--port", "0", "--engine", "local"))
    assert server.startswith(
        f"process {used.server_pid} already runs muster server on {used.home} at {used.profile.url};"
    )
    up = refusal(used.run("up", "--port", "0", "--engine", "local"))
    assert up.startswith(f"process {used.up_pid} already runs muster up on {used.home};")
    assert used.ask(lambda client: client.is_ready()), "the first ones go on"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--engine", "docker", "--port", "0"), "Docker at unix:///nowhere/docker.sock cannot be reached: No"),
        (("--engine", "podman"), "--engine: 'podman' is not auto, local or docker"),
        (("--port", "99999"), "--port: 99999 is not a port number"),
        (("--engine", "local", "--port", "0", "--fake-gpus", "4xRTX 4090"), "fake_gpus: '4xRTX 4090' is not MACHINES"),
        (("--config", "/missing.toml"), "/missing.toml: there is no such file"),
    ],
)
def test_a_wrong_flag_is_answered_with_what_would_be_right(quiet: World, words: tuple[str, ...], said: str) -> None:
    environ = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
    assert refusal(quiet.run("up", *words, environ=environ)).startswith(said)


@pytest.mark.parametrize("command", [("up",), ("down",)])
def test_an_unknown_key_of_the_settings_file_is_named(quiet: World, command: tuple[str, ...]) -> None:
    quiet.home.mkdir()
    file = quiet.home / "muster.toml"
    file.write_text("prot = 7600\n")
    said = refusal(quiet.run(*command))
    file.unlink()
    assert said == f"{file}: prot: unknown key; did you mean 'port'?"


def test_down_makes_no_home(quiet: World) -> None:
    assert quiet.cli("down") == f"nothing to end: there is no {quiet.home}\n"
    assert not quiet.home.exists()


def test_every_mistake_of_a_deployment_file_is_told_with_its_line(used: World) -> None:
    file = used.user / "wrong.yaml"
    file.write_text("name: digits\nreplcas: 3\nimage: local\ncmd: true\ngpu: RTX 4090:none\nprice: 9..1\n")
    result = used.run("apply", "-y", "-f", str(file))
    assert result.code == 1
    assert result.out == ""
    lines = result.err.splitlines()
    assert [line.split(": ")[:3] for line in lines] == [
        ["error", f"{file}:2", "replcas"],
        ["error", f"{file}:5", "gpu"],
        ["error", f"{file}:6", "price"],
    ]


def test_an_unknown_image_is_named(used: World) -> None:
    file = "name: digits\nimage: pytorch\ncmd: serve\n"
    assert "'pytorch'" in refusal(used.run("apply", "-y", "-f", "-", stdin=file))


@pytest.mark.parametrize("command", [("scale", "nobody", "2"), ("containers", "nobody")])
def test_an_unknown_deployment_is_named(used: World, command: tuple[str, ...]) -> None:
    assert refusal(used.run(*command)) == "no deployment 'nobody'"


def test_an_unknown_container_is_named(used: World) -> None:
    assert refusal(used.run("logs", "nobody")) == "no container 'nobody'"


def test_an_ambiguous_name_lists_what_it_may_mean(used: World) -> None:
    uuids = {each["uuid"] for each in used.listed("ps")}
    said = refusal(used.run("scale", "twin", "2"))
    assert len(uuids) == 2
    assert all(uuid in said for uuid in uuids)
    assert "may mean 2 deployments" in said


def test_a_foreign_token_is_refused(used: World) -> None:
    said = refusal(used.run("ps", environ={"MUSTER_TOKEN": "mst_wrong"}))
    assert "is the token right?" in said


def test_a_command_without_a_server_says_how_to_start_one(quiet: World) -> None:
    assert "start a server with `muster up`" in refusal(quiet.run("ps"))


def test_up_takes_nothing_from_the_folder_where_it_is_typed(quiet: World) -> None:
    """A script called like a module of ours or of the standard library must not be imported."""
    for name in ("logging.py", "httpx.py"):
        quiet.user.joinpath(name).write_text("raise SystemExit('imported from the working directory')\n")
    quiet.up()
    shutil.rmtree(quiet.user)
    quiet.user.mkdir()
    quiet.deploy("steady", 1, IDLE)
