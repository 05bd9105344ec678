"""``image …`` against a real server: what it prints, asks, waits for and never shows."""

import contextlib
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muster.cli import images
from muster.cli.main import run
from muster.model.ids import ImageUuid
from muster.model.image import HeldImage, ImageStatus, PrewarmState
from muster.store.port import Transaction
from tests.unit.cli.served import ADMIN, MACHINES, Served

CANARY = "pa55w0rd-canary"
M1, M2 = (machine.id for machine in MACHINES)
FILE = "name: digits\nimage: {}\ncmd: python /srv/serve.py\ngpu: RTX 4090\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served") / "home") as served:
        yield served


@pytest.fixture(autouse=True)
def server(shared: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    for name in [name for name in os.environ if name.startswith("MUSTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MUSTER_HOME", str(shared.home))
    monkeypatch.setenv("MUSTER_TOKEN", shared.account(tmp_path.name))
    monkeypatch.setattr(images, "POLL_SECONDS", 0.01)
    hold(shared)
    return shared


def hold(server: Served, *images: HeldImage) -> None:
    """Let both machines hold these images and no others."""

    def work(tx: Transaction) -> None:
        for machine in (M1, M2):
            tx.held_images.hold(machine, images)

    server.write(work)


def told(*args: str, code: int = 0) -> Any:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert run([*args, "-o", "json"]) == code
    return json.loads(output.getvalue())


class Said:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def take(self) -> tuple[list[str], list[str]]:
        captured = self._capsys.readouterr()
        return captured.out.splitlines(), captured.err.splitlines()


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(capsys)


def change(server: Served, uuid: str, **fields: Any) -> None:
    def work(tx: Transaction) -> None:
        for account in tx.accounts.all():
            image = tx.images.get(account.id, ImageUuid(uuid))
            if image is not None:
                tx.images.update(replace(image, **fields))

    server.write(work)


def saving(server: Served, name: str) -> str:
    """Return the uuid of an image that is being saved, as soon as it is."""
    while True:
        for each in server.read(lambda tx: tx.images.saving()):
            if each.name == name:
                return each.uuid
        time.sleep(0.01)


def soon(work: Callable[[], None]) -> threading.Timer:
    """Do it while a command waits for it."""
    timer = threading.Timer(0.1, work)
    timer.start()
    return timer


def apply(tmp_path: Path, text: str, *options: str) -> int:
    path = tmp_path / "app.yml"
    path.write_text(text, encoding="utf-8")
    return run(["apply", "-f", str(path), *options])


def test_an_image_is_added_listed_and_removed(server: Served, said: Said) -> None:
    assert run(["image", "add", "web", "docker.io/library/nginx"]) == 0
    (line,) = said.take()[0]
    (row, local) = told("image", "ls")
    assert line == f"web {row['uuid']}: stands for nginx:latest"
    assert (row["name"], row["reference"], row["status"], row["is_base"]) == ("web", "nginx:latest", "finished", False)
    assert local["name"] == "local"
    assert told("images") == [row, local]
    server.write(lambda tx: tx.held_images.hold(M1, [HeldImage("nginx:latest", "sha256:" + "1" * 64)]))
    change(server, row["uuid"], digest="sha256:" + "1" * 64)
    assert run(["image", "ls"]) == 0
    header, first, _ = said.take()[0]
    assert header.split() == ["NAME", "UUID", "REFERENCE", "DIGEST", "STATUS", "HELD", "BY", "AGE", "MESSAGE"]
    assert first.split()[:6] == ["web", row["uuid"], "nginx:latest", "sha256:" + "1" * 12, "finished", "1"]
    assert run(["image", "rm", "web", "-y"]) == 0
    assert said.take()[0] == [f"web {row['uuid']}: removed"]
    assert [each["name"] for each in told("image", "ls")] == ["local"]
    assert run(["image", "rm", "web", "-y"]) == 1
    assert said.take()[1] == ["error: no image 'web'"]


def test_nobody_to_ask_removes_nothing(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    run(["image", "add", "web", "nginx"])
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run(["image", "rm", "web"]) == 1
    assert "add -y" in said.take()[1][0]
    assert len(told("image", "ls")) == 2


def test_what_is_no_reference_is_one_line(said: Said) -> None:
    assert run(["image", "add", "web", "https://lab/web"]) == 1
    assert said.take() == ([], ["error: reference: 'https://lab/web' is a URL; write it without https://"])


def test_only_admins_add_for_everybody(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["image", "add", "torch", "lab:5000/torch:2", "--base"]) == 1
    assert "only admins" in said.take()[1][0]
    monkeypatch.setenv("MUSTER_TOKEN", ADMIN)
    added = told("image", "add", "torch", "lab:5000/torch:2", "--base")
    assert added["image"]["uuid"].startswith("base-image-")
    assert told("image", "rm", "torch", "-y") == {
        "action": "remove",
        "name": "torch",
        "image_uuid": added["image"]["uuid"],
    }


def test_a_name_bound_anew_offers_a_command_that_fetches_the_new_image_where_the_old_one_is(
    server: Served, said: Said
) -> None:
    uuid = told("image", "add", "asr", "lab:5000/asr:1")["image"]["uuid"]
    hold(server, HeldImage("lab:5000/asr:1", "sha256:1"))
    assert run(["image", "add", "asr", "lab:5000/asr:2"]) == 0
    text, offer = said.take()
    assert text == [f"asr {uuid}: stands for lab:5000/asr:2 from now on, no longer for lab:5000/asr:1"]
    assert offer == [
        "2 machines hold what it stood for; to fetch the new one there now:",
        f"  muster image prewarm asr --machine {M1} --machine {M2}",
    ]
    assert run(offer[1].split()[1:]) == 0
    assert [line.split()[:2] for line in said.take()[0]] == [["MACHINE", "STATE"], [M1, "wanted"], [M2, "wanted"]]
    assert told("image", "add", "asr", "lab:5000/asr:3")["outdated_on"] == []


def test_the_same_reference_again_says_so(server: Served, said: Said) -> None:
    uuid = told("image", "add", "asr", "lab:5000/asr:1")["image"]["uuid"]
    server.write(lambda tx: tx.held_images.hold(M1, [HeldImage("lab:5000/asr:1", "sha256:1")]))
    assert run(["image", "add", "asr", "lab:5000/asr:1"]) == 0
    text, offer = said.take()
    assert text == [f"asr {uuid}: still stands for lab:5000/asr:1"]
    assert offer[0].startswith("1 machine holds what it stood for")


def test_prewarming_waits_until_all_machines_have_it_and_tells_how_far_they_are(server: Served, said: Said) -> None:
    uuid = ImageUuid(told("image", "add", "asr", "lab:5000/asr:1")["image"]["uuid"])

    def write(machine: str, state: PrewarmState, message: str) -> None:
        def work(tx: Transaction) -> None:
            (prewarm,) = (each for each in tx.prewarms.of(uuid) if each.machine_id == machine)
            tx.prewarms.update(replace(prewarm, state=state, message=message))

        server.write(work)

    def play() -> None:
        while not server.read(lambda tx: tx.prewarms.of(uuid)):
            threading.Event().wait(0.005)
        write(M1, PrewarmState.DONE, "")
        write(M2, PrewarmState.WANTED, "fetching: 50 %")
        soon(lambda: write(M2, PrewarmState.DONE, ""))

    soon(play)
    assert run(["image", "prewarm", "asr", "--wait", "--timeout", "30"]) == 0
    text, progress = said.take()
    assert [line.split() for line in text[1:]] == [[M1, "done"], [M2, "done"]]
    assert progress == [f"{M2}: fetching: 50 %"]
    write(M2, PrewarmState.FAILED, "denied")
    assert [row["state"] for row in told("image", "prewarm", "asr", "--status", code=1)] == ["done", "failed"]


def test_waiting_ends_at_its_deadline(said: Said) -> None:
    run(["image", "add", "asr", "lab:5000/asr:1"])
    said.take()
    assert run(["image", "prewarm", "asr", "--machine", M1, "--wait", "--timeout", "0.05"]) == 1
    assert said.take()[1] == [
        "error: image asr is still being fetched; see: muster image prewarm asr --status",
    ]
    assert run(["image", "prewarm", "asr", "--machine", "zz"]) == 1
    assert said.take()[1] == ["error: machine_ids: nothing on offer is called 'zz'"]


def test_saving_a_container_waits_until_it_is_saved_or_says_why_not(server: Served, tmp_path: Path, said: Said) -> None:
    assert apply(tmp_path, FILE.format("local"), "-y", "-o", "json") == 0
    container = server.place(json.loads("\n".join(said.take()[0]))["deployment_uuid"], suffix="5a4e000000")
    assert run(["image", "save", "5a4e000000", "mine"]) == 0
    (row, _) = told("image", "ls")
    assert (row["status"], row["source_container_uuid"]) == ("saving", container)
    assert said.take()[0] == [f"mine {row['uuid']}: being saved; see: muster image ls"]
    change(server, row["uuid"], status=ImageStatus.FAILED, message="no space left")

    def finish() -> None:
        change(server, saving(server, "mine"), status=ImageStatus.FINISHED)

    soon(finish)
    assert run(["image", "save", "5a4e000000", "mine", "--wait"]) == 0
    assert said.take()[0][0].endswith(": saved")
    assert run(["image", "save", "5a4e000000", "mine"]) == 1
    assert "already an image called 'mine'" in said.take()[1][0]

    def fail() -> None:
        change(server, saving(server, "other"), status=ImageStatus.FAILED, message="no space left")

    soon(fail)
    assert run(["image", "save", "5a4e000000", "other", "--wait"]) == 1
    text, problems = said.take()
    assert text == []
    assert problems[0].endswith("could not be saved: no space left")


def test_a_login_takes_its_password_from_standard_input_and_shows_it_nowhere(
    server: Served, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{CANARY}\n"))
    assert run(["image", "login", "lab:5000", "-u", "ann", "--password-stdin"]) == 0
    text, problems = said.take()
    assert (text, problems) == (["lab:5000: login kept"], [])
    for path in server.home.iterdir():
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path
    assert told("image", "logout", "lab:5000") == {"action": "logout", "registry": "lab:5000"}
    assert run(["image", "logout", "lab:5000"]) == 1
    assert said.take()[1] == ["error: no registry 'lab:5000'"]


def test_a_password_is_never_an_argument_and_never_guessed(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["image", "login", "lab:5000", "-u", "ann", "--password", CANARY]) == 2
    said.take()
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run(["image", "login", "lab:5000", "-u", "ann"]) == 1
    assert "--password-stdin" in said.take()[1][0]
    assert run(["image", "login", "lab:5000", "-u", "ann", "--password-stdin"]) == 1
    assert said.take()[1] == ["error: the password is empty"]
    monkeypatch.setattr("sys.stdin", io.StringIO(CANARY))
    assert run(["image", "login", "https://lab", "-u", "ann", "--password-stdin"]) == 1
    assert said.take()[1] == [
        "error: registry: 'https://lab' is no registry; write HOST or HOST:PORT, like registry.lab:5000"
    ]


def test_a_deployment_may_name_an_image_as_for_docker_and_the_catalogue_learns_it(
    tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert apply(tmp_path, FILE.format("docker.io/library/nginx:1.27")) == 1
    assert said.take()[1] == ["error: standard input is no terminal, so nobody can be asked; add -y"]
    assert [each["name"] for each in told("image", "ls")] == ["local"]
    assert apply(tmp_path, FILE.format("docker.io/library/nginx:1.27"), "-y") == 0
    text, notes = said.take()
    (row, _) = told("image", "ls")
    assert (row["name"], row["reference"]) == ("nginx:1.27", "nginx:1.27")
    assert notes == [f"image nginx:1.27 added to the catalogue: {row['uuid']}"]
    assert any(f"docker.io/library/nginx:1.27 = {row['uuid']}" in line for line in text)
    assert apply(tmp_path, FILE.format("nginx:1.27"), "-y") == 0
    assert "nothing to do" in said.take()[0][0]
    assert apply(tmp_path, FILE.format("library/nginx:1.27"), "-y") == 0
    assert "nothing to do" in said.take()[0][0]
    assert len(told("image", "ls")) == 2


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("nginks", "none is called 'nginks' (see: muster images; an image of a registry is written with its tag"),
        ("Lab/asr:1", "none is called 'Lab/asr:1', and it is no reference: 'Lab' holds capital letters"),
        ("image-00", "none is called 'image-00'"),
    ],
)
def test_what_is_neither_a_name_nor_a_reference_is_refused(tmp_path: Path, said: Said, image: str, why: str) -> None:
    assert apply(tmp_path, FILE.format(image), "-y") == 1
    (line,) = said.take()[1]
    assert line.startswith(f"error: image: {why}")


def test_a_file_says_whether_an_image_is_fetched_again(tmp_path: Path, said: Said) -> None:
    assert apply(tmp_path, FILE.format("local") + "pull: Always\n", "-y") == 0
    assert any(line.split()[:2] == ["pull", "always"] for line in said.take()[0])
    assert apply(tmp_path, FILE.format("local") + "pull: missing\n", "-y") == 0
    shown = [line.split() for line in said.take()[0]]
    assert ["container_template.image_pull", "'always'", "'missing'", "holds", "at", "once"] in shown
    assert apply(tmp_path, FILE.format("local") + "pull: never\n", "-y") == 1
    assert said.take()[1][0].endswith("pull: 'never' is not one of missing, always")
