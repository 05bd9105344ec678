"""Files of an account's storage through the API."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from muster.files import FileStorage
from muster.model.ids import AccountId
from tests.compat.test_extensions import error
from tests.compat.world import ADMIN, MACHINES, MEMBER, World

FILES = "/api/v1/muster/files"
CALLS = [("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "/content"), ("PUT", "/content")]


def call(
    world: World,
    method: str,
    path: str | None,
    *,
    to: str = "",
    content: Any = b"",
    token: str = ADMIN,
    status: int = 200,
    **query: Any,
) -> Any:
    """Call about a path in lab-a, unless told otherwise."""
    params = {"data_center": "lab-a", "path": path, **query}
    told = {name: value for name, value in params.items() if value is not None}
    response = world.send(method, FILES + to, params=told, content=content, token=token)
    assert response.status_code == status, response.text
    return response if to and method == "GET" and status == 200 else response.json()


def put(world: World, path: str, content: Any = b"", **options: Any) -> Any:
    return call(world, "PUT", path, to="/content", content=content, **{"status": 201, **options})


def names(world: World, path: str = "/", **options: Any) -> list[str]:
    return [each["name"] for each in call(world, "GET", path, **options)["entries"]]


def account_folder(world: World, tmp_path: Path, token: str = ADMIN) -> Path:
    account = AccountId(world.send("GET", "/api/v1/muster/me", token=token).json()["id"])
    return FileStorage(tmp_path / "files", needs_marker=False).folder(account, "lab-a")


def test_a_file_is_written_listed_read_and_removed(world: World, tmp_path: Path) -> None:
    row = put(world, "/models/a.bin", b"weights" * 100_000, mode="755")
    assert {name: row[name] for name in ("name", "kind", "size_bytes", "mode")} == {
        "name": "a.bin",
        "kind": "file",
        "size_bytes": 700_000,
        "mode": "755",
    }
    assert row["modified_at"].endswith("+08:00")
    assert (account_folder(world, tmp_path) / "models" / "a.bin").read_bytes() == b"weights" * 100_000
    listing = call(world, "GET", "/models")
    assert (listing["name"], listing["kind"], listing["is_complete"]) == ("models", "folder", True)
    assert listing["entries"] == [row]
    assert call(world, "GET", "models/a.bin") == {**row, "entries": [], "is_complete": True}
    response = call(world, "GET", "/models/a.bin", to="/content")
    assert response.content == b"weights" * 100_000
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-length"] == "700000"
    assert call(world, "DELETE", "/models/a.bin") == row
    assert names(world, "/models") == []


def test_a_body_that_comes_in_pieces_is_one_file(world: World) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(40):
            yield bytes([number]) * 65_536

    assert put(world, "a", pieces())["size_bytes"] == 40 * 65_536
    content = call(world, "GET", "a", to="/content").content
    assert content == b"".join(bytes([number]) * 65_536 for number in range(40))
    assert put(world, "empty")["size_bytes"] == 0
    assert call(world, "GET", "empty", to="/content").content == b""


def test_a_body_that_breaks_off_leaves_the_old_file_and_nothing_else(world: World) -> None:
    put(world, "a", b"old")

    async def upload() -> list[Message]:
        """Send half a body and go away."""
        messages: list[Message] = [
            {"type": "http.request", "body": b"half", "more_body": True},
            {"type": "http.disconnect"},
        ]
        sent: list[Message] = []

        async def receive() -> Message:
            await asyncio.sleep(0)
            return messages.pop(0)

        async def send(message: Message) -> None:
            await asyncio.sleep(0)
            sent.append(message)

        scope = {
            "type": "http",
            "method": "PUT",
            "path": f"{FILES}/content",
            "query_string": b"path=a&data_center=lab-a",
            "headers": [(b"authorization", ADMIN.encode())],
        }
        await world.app(scope, receive, send)
        return sent

    sent = world.run(upload())
    assert sent[0]["status"] == 422
    assert call(world, "GET", "a", to="/content").content == b"old"
    assert names(world) == ["a"]


def test_a_folder_is_made_and_removed_with_everything_in_it_only_when_told(world: World) -> None:
    for _ in range(2):
        assert call(world, "PUT", "/a/b", status=201)["kind"] == "folder"
    put(world, "/a/b/c")
    assert error(call(world, "DELETE", "/a", status=409))[1].startswith("/a: is a folder")
    assert call(world, "DELETE", "/a", recursive=True)["kind"] == "folder"
    assert names(world) == []


def test_a_long_list_comes_in_pages(world: World) -> None:
    for name in ("b", "c", "a"):
        put(world, name)
    first = call(world, "GET", None, limit=2)
    assert ([each["name"] for each in first["entries"]], first["is_complete"]) == (["a", "b"], False)
    assert names(world, after="b", limit=2) == ["c"]


def test_nobody_sees_anothers_files(world: World) -> None:
    put(world, "/a", b"of the admin")
    assert names(world, token=MEMBER) == []
    for method, to in CALLS[2:4]:
        assert error(call(world, method, "/a", to=to, token=MEMBER, status=404))[0] == "RecordNotFoundError"
    put(world, "/a", b"of the member", token=MEMBER)
    call(world, "DELETE", "/a", token=MEMBER)
    assert call(world, "GET", "/a", to="/content").content == b"of the admin"


def test_each_data_center_has_files_of_its_own(world: World) -> None:
    put(world, "/a", data_center="lab-b")
    assert names(world) == []
    assert names(world, data_center="lab-b") == ["a"]


@pytest.mark.parametrize(("method", "to"), CALLS)
def test_the_data_center_may_be_left_out_only_when_there_is_one(world: World, method: str, to: str) -> None:
    answer = call(world, method, "/a", to=to, data_center=None, status=422)
    assert error(answer)[1:] == ("data_center: is required, one of: lab-a, lab-b", "data_center")
    answer = call(world, method, "/a", to=to, data_center="lab-c", status=422)
    assert error(answer)[1] == "data_center: 'lab-c' is none of: lab-a, lab-b"


def test_the_only_data_center_is_meant_when_none_is_named(world: World) -> None:
    world.write(lambda tx: tx.machines.retire_all_but(frozenset({MACHINES[2].id})))
    put(world, "/a", data_center=None)
    assert names(world, data_center="lab-b") == ["a"]
    world.write(lambda tx: tx.machines.retire_all_but(frozenset()))
    assert "no machine is offered" in error(call(world, "GET", "/", data_center=None, status=409))[1]


@pytest.mark.parametrize(("method", "to"), CALLS)
def test_a_server_without_storage_says_so(world: World, method: str, to: str) -> None:
    world.app.state.context = replace(world.app.state.context, files=None)
    assert "has no file storage" in error(call(world, method, "/a", to=to, status=409))[1]


@pytest.mark.parametrize(("method", "to"), CALLS)
def test_a_storage_that_is_not_mounted_is_told(world: World, tmp_path: Path, method: str, to: str) -> None:
    files = FileStorage(tmp_path / "absent", needs_marker=True)
    world.app.state.context = replace(world.app.state.context, files=files)
    assert "is the file storage mounted?" in error(call(world, method, "/a", to=to, status=503))[1]


@pytest.mark.parametrize(("method", "to"), CALLS)
def test_a_path_that_leads_out_is_refused(world: World, method: str, to: str) -> None:
    assert error(call(world, method, "/a/../../b", to=to, status=422))[2] == "path"
    assert error(call(world, method, "/a\0b", to=to, status=422))[2] == "path"


@pytest.mark.parametrize(
    ("method", "to", "query"),
    [
        ("GET", "", {"limit": 0}),
        ("GET", "", {"limit": 10_001}),
        ("DELETE", "", {"recursive": "perhaps"}),
        ("PUT", "/content", {"mode": "4755"}),
        ("PUT", "/content", {"mode": "rwx"}),
        ("GET", "/content", {"path": ""}),
        ("PUT", "", {"path": ""}),
    ],
)
def test_a_wrong_query_is_named(world: World, method: str, to: str, query: dict[str, Any]) -> None:
    answer = call(world, method, to=to, status=422, **{"path": "/a", **query})
    assert error(answer)[2] in query


def test_links_and_odd_names_are_shown_and_not_followed(world: World, tmp_path: Path) -> None:
    folder = account_folder(world, tmp_path)
    (tmp_path / "secret").write_text("of the host")
    (folder / "link").symlink_to(tmp_path)
    Path(str(folder) + "/\udcff\x1b").touch()
    listing = call(world, "GET", "/")
    assert {each["name"]: each["kind"] for each in listing["entries"]} == {"link": "link", "\\xff\x1b": "file"}
    for path in ("/link", "/link/secret"):
        assert error(call(world, "GET", path, to="/content", status=409))[0] == "BadRequest"
    put(world, "/link/secret", status=409)
    assert (tmp_path / "secret").read_text() == "of the host"
