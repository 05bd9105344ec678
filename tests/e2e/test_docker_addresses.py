"""Addresses of real containers: the same from outside and inside, not cut while somebody is in, anew when reused."""

import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.daemon import Daemon
from tests.e2e.docker_world import DockerWorld

pytestmark = pytest.mark.docker

SERVICE = """
import os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            print("slow", flush=True)
            while not os.path.exists("/root/autodl-fs/go"):
                time.sleep(0.05)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["AutoDLContainerUUID"].encode())
ThreadingHTTPServer(("", 6006), Handler).serve_forever()
"""
ASK = (
    "import os, ssl, urllib.request as r; trust = ssl.create_default_context(cafile='/root/ca.pem');"
    " url = os.environ['AutoDLServiceURL']; print(url, r.urlopen(url, context=trust, timeout=10).read().decode())"
)
FILE = """
name: inside
replicas: 1
image: python
gpu: RTX 4090
reuse: true
cmd: exec python3 /root/autodl-fs/service.py
service: {health_check: {path: /, interval: 200ms}}
"""


@pytest.fixture
def world(docker_daemon: Daemon, python_image: str, tmp_path: Path) -> Iterator[DockerWorld]:
    with DockerWorld(tmp_path, docker_daemon) as world:
        (world.user / "service.py").write_text(SERVICE)
        world.cli("image", "add", "python", python_image)
        world.cli("fs", "cp", "-d", "lab-a", str(world.user / "service.py"), "fs:")
        yield world


def test_a_container_reaches_its_own_address_and_a_stop_waits_for_who_is_in(world: DockerWorld) -> None:
    uuid = str(world.listed("apply", "-y", "-f", "-", stdin=FILE)["deployment_uuid"])
    (first,) = world.until_ready(uuid, 1)
    world.cli("ca", "export", "--out", "ca.pem")
    world.cli("cp", "ca.pem", f"{first.uuid}:/root/ca.pem")
    url, answer = world.cli("exec", first.uuid, "--", "python3", "-c", ASK).split()
    assert answer == first.uuid
    assert url != first.url_6006, "loopback means the container itself there: it is the bridge's address"
    assert url.rpartition(":")[2] == first.url_6006.rpartition(":")[2]
    shell = world.cli("ssh", first.uuid, "--", "grep AutoDLService6006URL= /init/others/help").strip()
    assert shell == f"export AutoDLService6006URL={url}"

    answers: list[str] = []

    def ask() -> None:
        with urllib.request.urlopen(f"{first.url_6006}/slow", timeout=60, context=world.trust()) as answer:
            answers.append(answer.read().decode())

    asking = threading.Thread(target=ask)
    asking.start()
    world.until(lambda: "slow" in world.cli("logs", first.uuid), "it is in")
    world.cli("stop", "--container", first.uuid)

    def said() -> list[str]:
        return [each.message for each in world.events() if each.kind == "drain" and each.container_uuid == first.uuid]

    world.until(said, "it is told to end")
    (world.files / "go").touch()
    asking.join()
    assert answers == [first.uuid]
    world.until(lambda: len(said()) > 1, "it ends")
    assert said() == ["takes no new requests; 1 in flight", "nothing is in flight: stopping"]

    (second,) = world.until(
        lambda: [each for each in world.live(uuid) if each.is_ready and each.uuid != first.uuid], "2nd"
    )
    assert world.fetch(second.url_6006) == second.uuid
    assert second.url_6006 != first.url_6006
    world.cli("stop", "--container", second.uuid)
    third = world.until(
        lambda: next((each for each in world.live(uuid) if each.is_ready and each.reused_from), None), "a reused one"
    )
    assert world.fetch(third.url_6006) == third.uuid
    assert third.url_6006 not in (first.url_6006, second.url_6006)
    assert (
        world.cli("ssh", third.uuid, "--", "echo $AutoDLServiceURL").strip().rpartition(":")[2]
        == (third.url_6006.rpartition(":")[2])
    )
