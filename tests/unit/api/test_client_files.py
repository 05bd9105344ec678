"""Files through the client, over a real connection: contents stream, and what breaks off is never taken for whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from muster.client import Client
from muster.errors import ApiError, ApiUnavailable, NotFound
from tests.compat.world import ADMIN, World
from tests.unit.api.served import Server, on_stage

CENTER = "lab-a"
MIB = 1 << 20


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("furnished")
    World.furnish(folder)
    return folder / "muster.db"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with closing(Server()) as opened:
        yield opened


@pytest.fixture
def client(server: Server, furnished: Path, tmp_path: Path) -> Iterator[Client]:
    shutil.copy(furnished, tmp_path)
    with on_stage(server, tmp_path), Client(server.url, ADMIN, timeout=10) as opened:
        yield opened


def test_what_was_written_is_read_back(client: Client) -> None:
    content = [os.urandom(100_000) for _ in range(50)]
    written = client.write_file("/a/b", iter(content), data_center=CENTER, mode=0o100755)
    assert (written.name, written.kind, written.size_bytes, written.mode) == ("b", "file", 5_000_000, "755")
    assert written.modified_at.tzinfo is not None
    assert client.file("/a/b", data_center=CENTER) == written
    assert b"".join(client.read_file("/a/b", data_center=CENTER)) == b"".join(content)
    assert client.write_file("/empty", b"", data_center=CENTER).size_bytes == 0
    assert list(client.read_file("/empty", data_center=CENTER)) == []


def test_a_folder_is_listed_to_its_last_page_and_a_file_as_itself(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.client.client._PAGE_SIZE", 2)
    for name in ("e", "b", "d", "a", "c"):
        client.make_folder(f"/{name}", data_center=CENTER)
    client.write_file("/f", b"1", data_center=CENTER)
    assert [each.name for each in client.files(data_center=CENTER)] == ["a", "b", "c", "d", "e", "f"]
    assert [each.size_bytes for each in client.files("/f", data_center=CENTER)] == [1]
    assert list(client.files("/a", data_center=CENTER)) == []


def test_removing_tells_what_it_was_and_refuses_what_was_not_meant(client: Client) -> None:
    client.write_file("/a/b", b"123", data_center=CENTER)
    with pytest.raises(ApiError, match="is a folder"):
        client.remove_file("/a", data_center=CENTER)
    assert client.remove_file("/a/b", data_center=CENTER).size_bytes == 3
    assert client.remove_file("/a", data_center=CENTER, is_recursive=True).kind == "folder"
    for call in (client.file, client.remove_file):
        with pytest.raises(NotFound, match=r"^no file '/a'$"):
            call("/a", data_center=CENTER)
    for read in (client.files, client.read_file):
        with pytest.raises(NotFound, match=r"^no file '/a'$"):
            list(read("/a", data_center=CENTER))
    with pytest.raises(ApiError, match="one of: lab-a, lab-b"):
        client.file("/")


def test_an_upload_whose_source_fails_leaves_the_old_file(client: Client) -> None:
    def source() -> Iterator[bytes]:
        yield bytes(3 * MIB)
        raise OSError("the disk of the caller")

    client.write_file("/a", b"old", data_center=CENTER)
    with pytest.raises(OSError, match="the disk of the caller"):
        client.write_file("/a", source(), data_center=CENTER)
    assert b"".join(client.read_file("/a", data_center=CENTER)) == b"old"


def test_a_refusal_arrives_however_much_was_still_to_be_sent(client: Client) -> None:
    client.make_folder("/a", data_center=CENTER)
    with pytest.raises(ApiError, match="/a: is a folder, only files are replaced"):
        client.write_file("/a", (bytes(MIB) for _ in range(64)), data_center=CENTER)


def test_a_download_that_breaks_off_is_an_error(client: Client, tmp_path: Path) -> None:
    client.write_file("/a", (bytes(MIB) for _ in range(64)), data_center=CENTER)
    (path,) = (tmp_path / "files" / CENTER).glob("*/a")
    chunks = client.read_file("/a", data_center=CENTER)
    next(chunks)
    os.truncate(path, 0)
    with pytest.raises(ApiUnavailable, match="lost the connection"):
        list(chunks)
