"""Which engine a home gets: told, remembered, found; and what is said when it cannot be had."""

import asyncio
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any

import pytest

from muster.config import Settings
from muster.errors import SetupError
from muster.files import FileStorage
from muster.processes.engines import Chosen, choose, remembered

NOBODY = "unix:///nowhere/docker.sock"


class OldDocker(BaseHTTPRequestHandler):
    """A daemon from before device requests."""

    def do_GET(self) -> None:
        body = json.dumps({"Version": "18.06.1-ce", "ApiVersion": "1.38"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def old_docker() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="mst") as folder, UnixStreamServer(f"{folder}/s", OldDocker) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"unix://{folder}/s"
        server.shutdown()


def chosen(home: Path, *, has_containers: bool = False, **settings: Any) -> Chosen:
    async def choosing() -> Chosen:
        files = FileStorage(home / "files", needs_marker=False)
        found = await choose(Settings(home=home, **settings), "installation", files, has_containers=has_containers)
        await found.engine.aclose()
        return found

    return asyncio.run(choosing())


def test_without_docker_auto_takes_the_local_engine_and_says_what_that_means(tmp_path: Path) -> None:
    found = chosen(tmp_path, docker_host=NOBODY)
    assert (found.name, remembered(tmp_path)) == ("local", "local")
    assert found.note.startswith("no container engine found: using the local one")


def test_a_docker_that_cannot_be_used_is_named_by_auto_and_refused_to_who_insists(
    tmp_path: Path, old_docker: str
) -> None:
    words = "is 18.06.1-ce and speaks API 1.38; Muster needs 1.40 (Docker 19.03) or newer"
    with pytest.raises(SetupError, match="Muster needs") as refused:
        chosen(tmp_path, engine="docker", docker_host=old_docker)
    assert str(refused.value) == f"Docker at {old_docker} {words}"
    assert remembered(tmp_path) == "", "nothing is decided by what failed"
    found = chosen(tmp_path, docker_host=old_docker)
    assert found.name == "local"
    assert words in found.note


def test_a_missing_daemon_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as refused:
        chosen(tmp_path, engine="docker", docker_host=NOBODY)
    assert str(refused.value) == f"Docker at {NOBODY} cannot be reached: No such file or directory; is dockerd running?"


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of a fork beside threads: it only asks and ends
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not use the socket")
def test_who_may_not_use_the_socket_is_told_how_he_may(tmp_path: Path, old_docker: str) -> None:
    socket = Path(old_docker.removeprefix("unix://"))
    socket.chmod(0o600)
    socket.parent.chmod(0o755)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(65534)
            with pytest.raises(SetupError, match=r"no permission for the Docker socket .* group docker"):
                chosen(Path("/nowhere"), engine="docker", docker_host=old_docker)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_home_of_docker_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "engine").write_text("docker\n")
    for engine in ("auto", "docker"):
        assert chosen(tmp_path, engine=engine, docker_host=NOBODY, has_containers=True).name == "docker"


def test_a_home_of_the_local_engine_stays_with_it_also_from_before_it_was_remembered(tmp_path: Path) -> None:
    (tmp_path / "containers").mkdir()
    found = chosen(tmp_path, docker_host=NOBODY)
    assert (found.name, found.note) == ("local", "")


def test_another_engine_is_refused_while_the_one_before_has_something(tmp_path: Path) -> None:
    (tmp_path / "engine").write_text("docker\n")
    with pytest.raises(SetupError, match="`muster down --purge`"):
        chosen(tmp_path, engine="local", has_containers=True)
    assert chosen(tmp_path, engine="local").name == "local"
    assert remembered(tmp_path) == "local"
