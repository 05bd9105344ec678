"""Folders held open by descriptor, which is how everything here gets from one to the next: never by path or link."""

import contextlib
import os
from collections.abc import Iterator

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@contextlib.contextmanager
def opened(name: str, above: int) -> Iterator[int]:
    """Hold a folder in the open folder ``above``; raises ``OSError`` when it is none, or a link."""
    folder = os.open(name, FOLDER, dir_fd=above)
    try:
        yield folder
    finally:
        os.close(folder)
