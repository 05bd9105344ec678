"""Copies between this computer and the account's storage, as ``cp`` and ``scp`` make them.

A folder is copied with ``-r``: into the target if that is one, as the target if it is not there yet; ``DIR/.`` and a
whole storage (``fs:/``) mean what is in them. A file takes its name when it is complete, here as there. Permissions go
along, owners and times do not. On the way up a link to a file is copied as that file; links to folders, FIFOs and the
like are left out both ways, and told.
"""

import contextlib
import os
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from muster.errors import InvalidSpec, NotFound

if TYPE_CHECKING:
    from muster.client import Client, FileEntry

STREAM = "-"
_CHUNK_BYTES = 1 << 18


@dataclass
class Copied:
    """What a copy came to, so far; ``left_out`` are sources that are neither files nor folders, or have gone."""

    files: int = 0
    size_bytes: int = 0
    left_out: list[str] = field(default_factory=list)

    def passing(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Count one file's content as it passes."""
        for chunk in chunks:
            self.size_bytes += len(chunk)
            yield chunk
        self.files += 1


class Copier:
    """Copies to and from one data center of the account."""

    def __init__(self, client: "Client", data_center: str | None) -> None:
        self._client = client
        self._center = data_center
        self.copied = Copied()

    def upload(self, source: str, target: str, *, is_recursive: bool) -> None:
        """Copy what is at a path of this computer, or standard input, to a path of the storage."""
        is_into = target.endswith("/") or target == "" or self._is_folder(target)
        if source == STREAM:
            if is_into:
                raise InvalidSpec(f"fs:{target}", "is a folder: name a file in it for standard input")
            self._write(target, sys.stdin.buffer, 0o644)
            return
        local = Path(source)
        with _told(source):
            is_folder = stat.S_ISDIR(local.stat().st_mode)
        name = _last_name(source)
        place = _join(target, name) if is_into and name else target
        if not _is_text(place):
            raise InvalidSpec(ascii(place), "is no UTF-8, as names in the storage have to be")
        if not is_folder:
            self._upload_file(local, place)
        elif is_recursive:
            self._upload_folder(local, place)
        else:
            raise InvalidSpec(source, "is a folder: add -r")

    def download(self, source: str, target: str, *, is_recursive: bool) -> None:
        """Copy what is at a path of the storage to a path of this computer, or to standard output."""
        found = self._client.file(source, data_center=self._center)
        is_folder = found.kind == "folder"
        if is_folder and not is_recursive:
            raise InvalidSpec(f"fs:{source}", "is a folder: add -r")
        if target == STREAM:
            if is_folder:
                raise InvalidSpec(f"fs:{source}", "is a folder: standard output takes one file")
            for chunk in self._content(source):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return
        place, name = Path(target), _last_name(source)
        if name and (target.endswith("/") or place.is_dir()):
            with _told(target):
                place.mkdir(parents=True, exist_ok=True)
            place /= name
        if is_folder:
            self._download_folder(source, place)
        else:
            self._download_file(source, place, found)

    def _upload_folder(self, local: Path, place: str) -> None:
        pending = [(local, place)]
        while pending:
            local, place = pending.pop()
            self._client.make_folder(place or "/", data_center=self._center)
            with _told(str(local)):
                entries = sorted(local.iterdir())
            for each in entries:
                below = _join(place, each.name)
                if _is_text(each.name) and each.is_file():
                    self._upload_file(each, below)
                elif _is_text(each.name) and each.is_dir() and not each.is_symlink():
                    pending.append((each, below))
                else:
                    self.copied.left_out.append(os.fsencode(each).decode(errors="backslashreplace"))

    def _upload_file(self, local: Path, place: str) -> None:
        with _told(str(local)), local.open("rb") as file:
            self._write(place, file, stat.S_IMODE(os.fstat(file.fileno()).st_mode))

    def _write(self, place: str, file: BinaryIO, mode: int) -> None:
        chunks = self.copied.passing(iter(lambda: file.read(_CHUNK_BYTES), b""))
        self._client.write_file(place, chunks, data_center=self._center, mode=mode)

    def _download_folder(self, source: str, place: Path) -> None:
        pending = [(source, place)]
        while pending:
            source, place = pending.pop()
            with _told(str(place)):
                place.mkdir(exist_ok=True)
            for each in self._client.files(source, data_center=self._center):
                below = _join(source, each.name)
                if each.kind == "folder" and _is_name(each.name):
                    pending.append((below, place / each.name))
                elif each.kind != "file" or not _is_name(each.name):
                    self.copied.left_out.append(f"fs:{below}")
                else:
                    try:
                        self._download_file(below, place / each.name, each)
                    except NotFound:  # it has gone since, or its name is no text and only shown
                        self.copied.left_out.append(f"fs:{below}")

    def _download_file(self, source: str, place: Path, found: "FileEntry") -> None:
        with _told(str(place)), _replacing(place, int(found.mode, 8)) as file:
            for chunk in self._content(source):
                file.write(chunk)

    def _content(self, source: str) -> Iterator[bytes]:
        return self.copied.passing(self._client.read_file(source, data_center=self._center))

    def _is_folder(self, path: str) -> bool:
        try:
            return self._client.file(path, data_center=self._center).kind == "folder"
        except NotFound:
            return False


def _last_name(path: str) -> str:
    """Return the name that a copy into a folder gets; none where the contents of a folder are meant."""
    name = path.rstrip("/").rpartition("/")[2]
    return "" if name in {".", ".."} else name


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_name(name: str) -> bool:
    """Tell whether a name from elsewhere stays in the folder that it is put in."""
    return name not in {"", ".", ".."} and "/" not in name and "\0" not in name


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """Say what this computer's file system refuses."""
    try:
        yield
    except FileNotFoundError as error:
        raise InvalidSpec(path, "there is no such file or folder") from error
    except OSError as error:
        raise InvalidSpec(path, error.strerror or str(error)) from error


@contextlib.contextmanager
def _replacing(place: Path, mode: int) -> Iterator[BinaryIO]:
    """Write a file beside its place and put it there when it is complete; a device or a FIFO is written as it is."""
    if place.exists() and not place.is_file():
        with place.open("wb") as file:
            yield file
        return
    real = Path(os.path.realpath(place))
    draft = real.with_name(f".muster-download-{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file
        draft.replace(real)
    finally:
        draft.unlink(missing_ok=True)
