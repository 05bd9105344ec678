"""Which processes belong to a folder, by what the kernel knows of them rather than what Muster wrote down.

Everything that Muster starts names its home in the command line, the working folder or the environment, so a process
that outlived a test or the demo is found even if every record of it is lost. Refused: lists of process ids kept by the
one who started them, which is what a leak is missing from.
"""

import os
from pathlib import Path

import psutil


def belongs(process: psutil.Process, folder: Path) -> bool:
    """Tell whether another process than this one names a folder; one that is gone or not ours to read does not."""
    try:
        words = [*process.cmdline(), process.cwd(), *process.environ().values()]
    except psutil.Error:
        return False
    return process.pid != os.getpid() and any(str(folder) in word for word in words)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return every living process that names a folder."""
    return [process for process in psutil.process_iter() if belongs(process, folder)]
