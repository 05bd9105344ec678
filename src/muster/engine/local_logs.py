"""Reads the output of a local container: two files, of which the shim renames the newer one to the older.

All functions block and are called in threads. A reader holds the files it began with, so a rotation loses nothing
that it has not read yet, unless two rotations happen between two reads.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path

from muster.engine import shim

CHUNK_BYTES = 65_536


class Output:
    """One reader's place in the output."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[io.FileIO] = []

    def seek(self, tail: int | None) -> None:
        """Go to the beginning of the newest ``tail`` lines, or of all that is kept."""
        self._files = _open_both(self._folder)
        if tail is not None:
            self._skip(tail)

    def read(self) -> bytes:
        """Return the next chunk; nothing when there is no more now."""
        while True:
            if not self._files:
                self._files = _open_newest(self._folder)
                if not self._files:
                    return b""
            file = self._files[0]
            chunk = file.read(CHUNK_BYTES)
            if chunk:
                return chunk
            if len(self._files) == 1:
                newer = _open_newest(self._folder)
                if not newer or os.fstat(newer[0].fileno()).st_ino == os.fstat(file.fileno()).st_ino:
                    for other in newer:
                        other.close()
                    return b""
                self._files += newer
                # What was written before the rename came first.
                chunk = file.read(CHUNK_BYTES)
                if chunk:
                    return chunk
            self._files.pop(0).close()

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files:
            file.close()
        self._files = []

    def _skip(self, lines: int) -> None:
        """Leave only the last lines: count line ends backwards; one at the very end ends the last line."""
        if lines <= 0:
            for file in self._files:
                file.seek(0, os.SEEK_END)
            return
        missing, is_end = lines, True
        for index in range(len(self._files) - 1, -1, -1):
            file = self._files[index]
            for offset, block in _backwards(file):
                end = len(block)
                if is_end and block.endswith(b"\n"):
                    end -= 1
                is_end = False
                while True:
                    end = block.rfind(b"\n", 0, end)
                    if end < 0:
                        break
                    missing -= 1
                    if missing <= 0:
                        file.seek(offset + end + 1)
                        self._drop_before(index)
                        return
            file.seek(0)

    def _drop_before(self, index: int) -> None:
        for file in self._files[:index]:
            file.close()
        del self._files[:index]
        for file in self._files[1:]:
            file.seek(0)


def _open_newest(folder: Path) -> list[io.FileIO]:
    try:
        return [(folder / shim.OUTPUT).open("rb", buffering=0)]
    except FileNotFoundError:
        return []


def _open_both(folder: Path) -> list[io.FileIO]:
    """Open older and newer file of one moment: again if they were renamed in between."""
    while True:
        newer = _open_newest(folder)
        try:
            older = (folder / shim.OLD_OUTPUT).open("rb", buffering=0)
        except FileNotFoundError:
            return newer
        if newer and os.path.sameopenfile(older.fileno(), newer[0].fileno()):
            older.close()
            newer[0].close()
            continue
        return [older, *newer]


def _backwards(file: io.FileIO) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of a file with their offsets, last first."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - CHUNK_BYTES)
        file.seek(start)
        block = file.read(end - start)
        yield start, block
        end = start
