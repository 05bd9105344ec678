"""Removing a folder that somebody else may be changing, with few descriptors however deep it is.

Everything is unlinked relative to open folders and no link is followed, as ``shutil.rmtree`` does too. But that holds
one descriptor per level, and a container can make a tree deep enough to use up the server's. Here what lies too deep is
moved up to the top first, where it is met again.
"""

import contextlib
import itertools
import os
import secrets

from muster.files.folder import opened

_BATCH = 1000
_DEEPEST = 16
"""Levels that are descended with a descriptor each: few trees are deeper, and dozens of threads may be removing."""


def remove_folder(name: str, above: int) -> None:
    """Remove a folder in the open folder ``above``. Raises ``OSError``, half done."""
    with opened(name, above) as folder:
        _clear(folder, folder, 1)
    os.rmdir(name, dir_fd=above)


def _clear(folder: int, top: int, depth: int) -> None:
    """Remove what is in a folder, until there is nothing, or nothing of it can be found."""
    while batch := _some(folder):
        gone = 0
        for name, is_folder in batch:
            with contextlib.suppress(FileNotFoundError):  # a container was faster
                if not is_folder:
                    os.unlink(name, dir_fd=folder)
                elif depth >= _DEEPEST:
                    os.rename(name, f".muster-removed-{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=top)
                else:
                    with opened(name, folder) as below:
                        _clear(below, top, depth + 1)
                    os.rmdir(name, dir_fd=folder)
                gone += 1
        if not gone:
            return


def _some(folder: int) -> list[tuple[str, bool]]:
    """Return some names in a folder, which may hold millions, and whether each is a folder."""
    with os.scandir(folder) as found:
        return [(each.name, each.is_dir(follow_symlinks=False)) for each in itertools.islice(found, _BATCH)]
