"""OpenSSH's own programs against the gateway: what people and their editors do with a container all day."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from muster.engine.local import LocalEngine
from muster.model.routes import RouteState
from muster.testing.conformance.engine import make_run
from tests.e2e.ssh_world import PATIENCE_SECONDS, SshWorld, Terminal, answers, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(shutil.which(name) is None for name in ("ssh", "scp", "sftp", "sshpass")), reason="no OpenSSH client"
    ),
]
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshWorld]:
    folder = tmp_path_factory.mktemp("ssh")
    (folder / "work").mkdir()
    run = make_run("exec sleep 1000", GREETING="hello")
    with SshWorld(folder, lambda: LocalEngine(folder / "engine", folder / "work"), run) as opened:
        yield opened


@pytest.fixture
def world(shared: SshWorld) -> SshWorld:
    shared.show(shared.route)
    return shared


@pytest.fixture
def there(shared: SshWorld) -> Path:
    """Give the folder in which the container's commands run, as this test sees it."""
    folder = shared.user.parent / "work"
    for each in folder.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    return folder


# Logging in.


def test_a_command_has_its_exit_code_and_separate_errors(world: SshWorld) -> None:
    done = world.ssh("echo out; echo err >&2; echo $GREETING; exit 42")
    assert (done.code, done.out, done.err) == (42, b"out\nhello\n", "err\n")


def test_a_wrong_password_is_slow_and_counted(world: SshWorld) -> None:
    before, begun = world.gateway.failed_logins, time.monotonic()
    done = world.run(world.words("true", NumberOfPasswordPrompts="1"), environ={"SSHPASS": "wrong"})
    assert done.code != 0
    assert "Permission denied (password)" in done.err
    assert time.monotonic() - begun >= 2
    assert world.gateway.failed_logins == before + 1


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_key_of_the_account_needs_no_password(world: SshWorld, kind: str) -> None:
    refused = world.run(world.by_key("echo in", kind=kind))
    assert (refused.code, refused.out) == (255, b"")
    assert "Permission denied" in refused.err
    world.show_keys(world.make_key(kind)[1])
    assert world.run(world.by_key("echo in", kind=kind)).out == b"in\n"


def test_another_user_is_told_who_there_is(world: SshWorld) -> None:
    done = world.run(["ssh", *world.options(), "-p", str(world.port), "ubuntu@127.0.0.1", "true"])
    assert done.code == 255
    assert "muster: the only user of a container is root" in done.err


def test_a_container_that_has_ended_says_so(world: SshWorld) -> None:
    world.show(replace(world.route, state=RouteState.ENDED, is_running=False, message="it was stopped by you"))
    done = world.run(["ssh", *world.options(), "-p", str(world.port), "root@127.0.0.1", "true"])
    assert done.code == 255
    assert done.err.startswith("muster: it was stopped by you")


# Sessions.


def test_input_and_output_of_20_mb_are_whole(world: SshWorld) -> None:
    data = os.urandom(20 * MEGABYTE)
    done = world.ssh("sha256sum", stdin=data)
    assert done.out.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert world.ssh("cat", stdin=data).out == data


def test_input_ends_while_output_goes_on(world: SshWorld) -> None:
    assert world.ssh("cat; echo and more", stdin=b"first\n").out == b"first\nand more\n"


def test_a_shell_at_a_terminal_has_its_size_and_learns_new_ones(world: SshWorld) -> None:
    world.show_keys(world.make_key()[1])
    with Terminal(world.by_key(), size=(100, 30), env={**world.environ, "TERM": "xterm-256color"}) as terminal:
        terminal.type("stty size; echo $TERM; echo $GREETING-$((40 + 2))\n")
        terminal.see("30 100")
        terminal.see("xterm-256color")
        terminal.see("hello-42")
        terminal.resize(140, 45)
        terminal.type("until [ \"$(stty size)\" = '45 140' ]; do sleep 0.05; done; echo fits-$((1 + 1))\n")
        terminal.see("fits-2")
        terminal.type("exit 7\n")
        assert terminal.end() == 7


def test_ctrl_c_at_a_terminal_ends_the_command_and_not_the_shell(world: SshWorld) -> None:
    world.show_keys(world.make_key()[1])
    with Terminal(world.by_key(), size=(80, 24), env={**world.environ, "TERM": "xterm"}) as terminal:
        terminal.type("PS1='at-''home> '; sh -c 'echo go-$((1 + 1)); exec sleep 1000'; echo over\n")
        terminal.see("go-2")
        terminal.type("\x03")
        terminal.see("^C")
        terminal.see("at-home> ")  # a shell that is still busy with the interrupt throws away what is typed
        terminal.type("echo still-$((1 + 1))\n")
        terminal.see("still-2")
        terminal.type("exit\n")
        terminal.end()


def test_a_client_that_is_killed_hangs_up_on_its_command(world: SshWorld) -> None:
    world.show_keys(world.make_key()[1])
    with world.start(world.by_key("echo $$; exec sleep 1000"), stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        pid = int(client.stdout.readline())
        assert psutil.pid_exists(pid)
        client.kill()
    until(lambda: not psutil.pid_exists(pid))


def test_several_sessions_share_a_connection(world: SshWorld) -> None:
    control = world.user / "control"
    until(lambda: world.gateway.connections == 0)  # those of earlier tests have ended
    options = {"ControlPath": str(control), "ControlMaster": "auto", "ControlPersist": "yes"}
    assert world.ssh("echo first", options=options).out == b"first\n"
    try:
        together = [
            world.start(world.words(f"cat >/dev/null; echo {number}", **options), stdin=-1, stdout=-1)
            for number in range(5)
        ]
        until(lambda: world.gateway.sessions == 5)
        assert world.gateway.connections == 1
        assert [each.communicate(b"", PATIENCE_SECONDS)[0] for each in together] == [
            f"{number}\n".encode() for number in range(5)
        ]
    finally:
        world.run(["ssh", *world.options(**options), "-O", "exit", "-p", str(world.port), "root@127.0.0.1"])
    until(lambda: world.gateway.connections == 0)


def test_the_shell_of_a_script_on_standard_input_runs_it(world: SshWorld) -> None:
    done = world.run([*world.words()[:-1], "-T", world.words()[-1]], stdin=b"echo one\nexit 3\n")
    assert (done.code, done.out) == (3, b"one\n")


def test_a_command_that_is_killed_ends_as_a_shell_says(world: SshWorld) -> None:
    assert world.ssh("kill -9 $$").code == 137


# Files.


def test_scp_copies_both_ways(world: SshWorld, there: Path) -> None:
    data = os.urandom(5 * MEGABYTE)
    (world.user / "up.bin").write_bytes(data)
    scp = ["sshpass", "-e", "scp", *world.options(), "-P", str(world.port)]
    up = world.run([*scp, "up.bin", f"root@127.0.0.1:{there}/there.bin"])
    assert up.code == 0, up
    assert (there / "there.bin").read_bytes() == data
    down = world.run([*scp, f"root@127.0.0.1:{there}/there.bin", "down.bin"])
    assert down.code == 0, down
    assert (world.user / "down.bin").read_bytes() == data


def test_scp_of_old_runs_the_program_of_the_image(world: SshWorld, there: Path) -> None:
    (world.user / "up.txt").write_text("by the old protocol\n")
    done = world.run(
        ["sshpass", "-e", "scp", "-O", *world.options(), "-P", str(world.port), "up.txt", f"root@127.0.0.1:{there}/"]
    )
    assert done.code == 0, done
    assert (there / "up.txt").read_text() == "by the old protocol\n"


def test_sftp_lists_renames_and_removes(world: SshWorld, there: Path) -> None:
    (world.user / "a.txt").write_text("a")
    batch = f"cd {there}\nput a.txt\nrename a.txt b.txt\nmkdir folder\nls -1\nrm b.txt\nrmdir folder\n"
    # not with -b: then sftp asks nobody for a password
    done = world.run(
        ["sshpass", "-e", "sftp", *world.options(), "-P", str(world.port), "root@127.0.0.1"], stdin=batch.encode()
    )
    assert done.code == 0, done
    assert {b"b.txt", b"folder"} <= set(done.out.split())
    assert list(there.iterdir()) == []


@pytest.mark.skipif(shutil.which("rsync") is None, reason="no rsync")
def test_rsync_copies_a_tree(world: SshWorld, there: Path) -> None:
    tree = world.user / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for number in range(100):
        file = tree / f"d{number % 7}" / f"f{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{number}\n" * number)
    remote = f"sshpass -e ssh {' '.join(world.options())} -p {world.port}"
    for _ in range(2):
        done = world.run(["rsync", "-a", "--delete", "-e", remote, "tree/", f"root@127.0.0.1:{there}/copy/"])
        assert done.code == 0, done
    assert {each.relative_to(there / "copy"): each.read_text() for each in (there / "copy").rglob("f*")} == {
        each.relative_to(tree): each.read_text() for each in tree.rglob("f*")
    }


# Ports.


def test_a_port_of_the_container_is_forwarded(world: SshWorld) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inside, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        probe.close()
        words = world.words("-N", "-L", f"{port}:127.0.0.1:{inside.getsockname()[1]}", ExitOnForwardFailure="yes")
        client = world.start(words)
        try:
            until(lambda: answers(port))
            with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as outer:
                outer.sendall(b"ping")
                inner = accepted(inside)
                outer.shutdown(socket.SHUT_WR)
                assert read_all(inner) == b"ping"
                inner.sendall(b"pong" * MEGABYTE)
                inner.close()
                assert read_all(outer) == b"pong" * MEGABYTE
        finally:
            client.terminate()
            client.wait(PATIENCE_SECONDS)


def test_only_the_container_itself_is_reached_and_nobody_reaches_the_client(world: SshWorld) -> None:
    done = world.ssh("-W", "192.0.2.1:80")
    assert done.code != 0
    assert "only ports of the container itself" in done.err
    closed = world.ssh("-W", "127.0.0.1:1")
    assert closed.code != 0
    assert "refused" in closed.err.lower()
    back = world.ssh("-R", "0:127.0.0.1:22", "true", options={"ExitOnForwardFailure": "yes"})
    assert back.code == 255
    assert "remote port forwarding failed" in back.err.lower()


# The host key.


def test_processes_that_make_the_host_key_at_once_agree(tmp_path: Path) -> None:
    program = "import sys, pathlib; from muster.ssh.hostkey import public_host_key as told; "
    program += "print(told(pathlib.Path(sys.argv[1])))"
    makers = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(4)
    ]
    assert len({maker.communicate(timeout=PATIENCE_SECONDS)[0] for maker in makers}) == 1
    assert [maker.returncode for maker in makers] == [0] * 4


# The end.


def test_what_runs_when_the_container_ends_is_told(tmp_path: Path) -> None:
    run = make_run("exec sleep 1000")
    with SshWorld(tmp_path, lambda: LocalEngine(tmp_path / "engine"), run) as world:
        session = world.start(world.words("echo ready; sleep 1000"), stdout=-1, stderr=-1)
        assert session.stdout is not None
        assert session.stdout.readline() == b"ready\n"
        world.stop_container()
        session.communicate(timeout=PATIENCE_SECONDS)
        assert session.returncode in {129, 137, 143, 255}
        done = world.ssh("true")
        assert done.code == 255
        assert done.err.startswith("muster: exec in ")
        assert done.err.count("\n") == 1


def accepted(listener: socket.socket) -> socket.socket:
    """Return the inner end of a forwarded connection, and close those that only looked whether somebody listens."""
    listener.settimeout(PATIENCE_SECONDS)
    while True:
        inner, _ = listener.accept()
        inner.settimeout(PATIENCE_SECONDS)
        if inner.recv(1, socket.MSG_PEEK):
            return inner
        inner.close()


def read_all(end: socket.socket) -> bytes:
    """Read to the end."""
    data = b""
    while chunk := end.recv(1 << 16):
        data += chunk
    return data
