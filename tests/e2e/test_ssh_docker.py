"""OpenSSH's own programs in real containers, of images with next to nothing in them."""

import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from muster.engine.docker.engine import DockerEngine
from muster.model.image import ImageOrder
from muster.testing.conformance.engine import make_run
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BASH, BUSYBOX
from tests.e2e.ssh_world import PATIENCE_SECONDS, SshWorld, Terminal, answers, until

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(
        any(shutil.which(name) is None for name in ("ssh", "scp", "sftp", "sshpass")), reason="no OpenSSH client"
    ),
]
SERVE = "cd /tmp && echo inside >index.html && exec httpd -f -p 127.0.0.1:6006"
PROFILE = "echo 'export PATH=/usr/bin:/bin' >/etc/profile"


@pytest.fixture(params=[BUSYBOX, BASH])
def world(docker_daemon: Daemon, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SshWorld]:
    run = replace(make_run(SERVE, GREETING="hello"), image=ImageOrder(request.param))

    def engine() -> DockerEngine:
        return DockerEngine(docker_daemon.url, installation="0123456789abcdef", root=tmp_path / "engine")

    with SshWorld(tmp_path, engine, run) as opened:
        yield opened


def test_people_work_in_a_container_of_a_bare_image(world: SshWorld) -> None:
    # commands
    done = world.ssh("echo out; echo err >&2; echo $GREETING; pwd; exit 42")
    assert (done.code, done.out, done.err) == (42, b"out\nhello\n/root\n", "err\n")
    data = os.urandom(4 << 20)
    assert world.ssh("cat", stdin=data).out == data

    # a shell, whose profile forgets what the image's PATH holds
    assert world.ssh(PROFILE).code == 0
    world.show_keys(world.make_key()[1])
    with Terminal(world.by_key(), size=(100, 30), env={**world.environ, "TERM": "vt220"}) as terminal:
        terminal.type("stty size; echo $TERM-$GREETING; echo $PATH\n")
        terminal.see("30 100")
        terminal.see("vt220-hello")
        terminal.see("/usr/local/sbin:/usr/local/bin")
        terminal.resize(140, 45)
        terminal.type("until [ \"$(stty size)\" = '45 140' ]; do sleep 0.1; done; echo fits-$((1 + 1))\n")
        terminal.see("fits-2")
        terminal.type("exit 7\n")
        assert terminal.end() == 7

    # files, of which the image knows nothing
    (world.user / "up.bin").write_bytes(data)
    scp = ["sshpass", "-e", "scp", *world.options(), "-P", str(world.port)]
    up = world.run([*scp, "up.bin", "root@127.0.0.1:/root/there.bin"])
    assert up.code == 0, up
    assert world.run([*scp, "root@127.0.0.1:/root/there.bin", "down.bin"]).code == 0
    assert (world.user / "down.bin").read_bytes() == data
    batch = b"cd /root\nrename there.bin other.bin\nls -1\nrm other.bin\n"
    listed = world.run(
        ["sshpass", "-e", "sftp", *world.options(), "-P", str(world.port), "root@127.0.0.1"], stdin=batch
    )
    assert b"other.bin" in listed.out.split(), listed
    assert b"other.bin" not in world.ssh("ls /root").out.split()

    # what listens on the container's own loopback
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    tunnel = world.start(world.by_key("-N", "-L", f"{port}:localhost:6006"))
    until(lambda: answers(port))
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert answer.endswith(b"inside\n")
    tunnel.terminate()
    tunnel.wait(PATIENCE_SECONDS)

    # the end
    world.stop_container()
    ended = world.ssh("true")
    assert ended.code == 255
    assert ended.err.startswith("muster: ")
    assert ended.err.count("\n") == 1
