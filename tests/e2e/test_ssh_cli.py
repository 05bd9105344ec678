"""``muster ssh`` and ``muster cp``: OpenSSH's own client at the gateway, with all it needs from the API."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh
import psutil
import pytest

from muster.api.addresses import Reach
from muster.client import Client
from muster.engine.local import LocalEngine
from muster.model.container import ContainerStatus
from muster.model.front import Front
from muster.model.ids import ContainerUuid
from muster.store.port import Transaction
from muster.testing.bodies import create_body
from muster.testing.conformance.engine import make_run
from tests.e2e.ssh_world import PASSWORD, PATIENCE_SECONDS, Done, SshWorld, Terminal
from tests.e2e.world import MUSTER
from tests.unit.cli.served import ADMIN, Served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(any(shutil.which(name) is None for name in ("ssh", "scp")), reason="no OpenSSH client"),
]


class Cli:
    """Somebody who types ``muster``."""

    def __init__(self, world: SshWorld, server: Served, container: str) -> None:
        self.world = world
        self.server = server
        self.container = container
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(world.user),
            "TMPDIR": str(world.user / "tmp"),
            "MUSTER_HOME": str(server.home),
            "TERM": "xterm",
        }
        Path(self.environ["TMPDIR"]).mkdir(exist_ok=True)

    def run(self, *words: str, stdin: bytes = b"") -> Done:
        """Type one command and wait for its end; it leaves nothing of its own behind."""
        done = self.world.run([MUSTER, *words], stdin=stdin, environ=self.environ)
        assert list(Path(self.environ["TMPDIR"]).iterdir()) == []
        return done

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """Type one command that goes on."""
        return subprocess.Popen(
            [MUSTER, *words], env=self.environ, cwd=self.world.user, stdin=-3, stdout=-1, stderr=subprocess.PIPE
        )


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    folder = tmp_path_factory.mktemp("ssh")
    (folder / "work").mkdir()
    with (
        Served(tmp_path_factory.mktemp("served") / "home") as server,
        SshWorld(folder, lambda: LocalEngine(folder / "engine", folder / "work"), make_run("exec sleep 1000")) as world,
    ):
        show(server, reach=Reach(Front("127.0.0.1"), unseal=lambda sealed: sealed), host_key=lambda: world.host_key)
        with Client(server.url, ADMIN) as client:
            deployment = client.create_deployment(create_body("digits", cmd="serve"))
        container = server.place(deployment, suffix="abcdef0000")
        change(server, container, ssh_port=world.port, password=PASSWORD)
        yield Cli(world, server, container)


@pytest.fixture
def there(cli: Cli) -> Path:
    """Give the folder in which the container's commands run, as this test sees it."""
    folder = cli.world.user.parent / "work"
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def show(server: Served, **changes: Any) -> None:
    """Change what the server tells of its ingress."""
    server._app.state.context = replace(server._app.state.context, **changes)


def change(server: Served, uuid: str, **changes: Any) -> None:
    """Change a container's row."""

    def work(tx: Transaction) -> None:
        row = tx.containers.by_uuid(ContainerUuid(uuid))
        assert row is not None
        tx.containers.update(replace(row, **changes))

    server.write(work)


def test_a_command_is_run_without_typing_a_password(cli: Cli) -> None:
    for name in (cli.container, cli.container[:8], "digits"):
        done = cli.run("ssh", name, "--", "echo out; echo err >&2; exit 42")
        assert (done.code, done.out, done.err) == (42, b"out\n", "err\n")


def test_input_goes_along_and_options_of_ssh_do(cli: Cli) -> None:
    assert cli.run("ssh", "-T", "digits", "-o", "LogLevel=ERROR", "cat", "-", stdin=b"given\n").out == b"given\n"
    assert "OpenSSH" in cli.run("ssh", "digits", "-V").err


def test_a_shell_at_a_terminal_is_the_containers(cli: Cli) -> None:
    with Terminal([MUSTER, "ssh", "digits"], size=(91, 31), env=cli.environ, cwd=cli.world.user) as terminal:
        terminal.type("PS1='at-''home> '; stty size; echo in-$((40 + 2))\n")
        terminal.see("31 91")
        terminal.see("in-42")
        # Told by what is to be interrupted: an interrupt that meets the shell between two commands is not theirs.
        terminal.type("sh -c 'echo go-$((1 + 1)); exec sleep 1000'\n")
        terminal.see("go-2")
        terminal.type("\x03")
        terminal.see("^C")
        terminal.see("at-home> ")  # a shell that is still busy with the interrupt throws away what is typed
        terminal.type("exit 5\n")
        assert terminal.end() == 5


def test_the_password_is_on_no_command_line(cli: Cli) -> None:
    process = cli.start("ssh", "digits", "--", "echo ready; sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    lines = [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
    assert any("echo ready" in line for line in lines)
    assert not any(PASSWORD in line for line in lines)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode in {128 + signal.SIGTERM, 255}
    assert list(Path(cli.environ["TMPDIR"]).iterdir()) == []


def test_a_gateway_with_another_key_is_not_trusted(cli: Cli) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    before = cli.world.gateway.failed_logins
    show(cli.server, host_key=lambda: other)
    try:
        done = cli.run("ssh", "digits", "true")
    finally:
        show(cli.server, host_key=lambda: cli.world.host_key)
    assert done.code == 255
    assert "Host key verification failed" in done.err
    assert cli.world.gateway.failed_logins == before


def test_a_wrong_password_is_tried_once(cli: Cli) -> None:
    before = cli.world.gateway.failed_logins
    change(cli.server, cli.container, password="of before")
    try:
        done = cli.run("ssh", "digits", "true")
    finally:
        change(cli.server, cli.container, password=PASSWORD)
    assert (done.code, done.out) == (255, b"")
    assert "Permission denied" in done.err
    assert cli.world.gateway.failed_logins == before + 1


def test_files_are_copied_both_ways(cli: Cli, there: Path) -> None:
    user, data = cli.world.user, os.urandom(1 << 20)
    (user / "a:b.bin").write_bytes(data)
    assert cli.run("cp", "./a:b.bin", f"digits:{there}/").code == 0
    assert (there / "a:b.bin").read_bytes() == data
    (there / "tree" / "sub").mkdir(parents=True)
    (there / "tree" / "sub" / "f").write_text("deep")
    refused = cli.run("cp", f"digits:{there}/tree", "copy")
    assert refused.code != 0
    assert cli.run("cp", "-r", f"digits:{there}/tree", "copy").code == 0
    assert (user / "copy" / "sub" / "f").read_text() == "deep"
    missing = cli.run("cp", f"{cli.container}:{there}/nothing", "x")
    assert missing.code != 0
    assert "No such file" in missing.err


def test_a_deployment_whose_containers_have_ended_is_told_what_became_of_them(cli: Cli) -> None:
    change(cli.server, cli.container, status=ContainerStatus.SHUTDOWN)
    ended: Mapping[str, Any] = {"is_running": False, "message": "it was stopped by you"}
    try:
        cli.world.show(replace(cli.world.route, state=type(cli.world.route.state).ENDED, **ended))
        done = cli.run("ssh", "digits", "true")
    finally:
        cli.world.show(cli.world.route)
    assert done.code == 255
    assert "muster: it was stopped by you" in done.err
