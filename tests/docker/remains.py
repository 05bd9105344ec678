"""What a daemon that was killed leaves behind, found by what the kernel knows, and how it is ended.

containerd and the shims name the daemon's folder in their command lines; a container's processes are children of its
shim, and in the daemon's own control group even when the shim is gone. Mounts are below the folder. Refused: lists of
what was started, which is what a leak is missing from.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from muster.testing.belonging import processes_of

_END_SECONDS = 10.0
_POLL_SECONDS = 0.02
_CGROUPS = Path("/sys/fs/cgroup")


def processes(folder: Path, cgroup: str) -> list[psutil.Process]:
    """Return every living process of a daemon and of its containers, but for this one."""
    found = set(processes_of(folder))
    for process in list(found):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update(process.children(recursive=True))
    found.update(process for process in psutil.process_iter() if _is_in(process, cgroup))
    return [process for process in found if process.pid != os.getpid() and not _is_over(process)]


def wait_for(pid: int, seconds: float) -> None:
    """Wait until a process has ended, whether or not anybody has taken note of its end."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        _until(lambda: _is_over(process), seconds, f"the end of {process}")


def mounts(folder: Path) -> list[Path]:
    """Return what is mounted below a folder, the innermost and latest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]
    return [point for point in reversed(points) if point.is_relative_to(folder)]


def kill(folder: Path, cgroup: str) -> None:
    """End every process of a daemon; raises if one stays."""
    _until(lambda: not _killed(folder, cgroup), _END_SECONDS, f"the end of every process of {folder}")


def end(folder: Path, cgroup: str) -> None:
    """End every process, mount and control group of a daemon; raises if one stays."""
    kill(folder, cgroup)
    for point in mounts(folder):
        subprocess.run(["umount", "--lazy", point], check=True)
    for hierarchy in (_CGROUPS, *_CGROUPS.iterdir()):
        top = hierarchy / cgroup
        if top.is_dir():
            for inner, _, _ in os.walk(top, topdown=False):
                Path(inner).rmdir()


def _killed(folder: Path, cgroup: str) -> list[psutil.Process]:
    """Kill what lives, and return it."""
    left = processes(folder, cgroup)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)  # psutil checks that the id was not given to another one
    return left


def _is_over(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _until(is_reached: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not is_reached():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds:.0f} s: {what}")
        time.sleep(_POLL_SECONDS)


def _is_in(process: psutil.Process, cgroup: str) -> bool:
    try:
        return f"/{cgroup}/" in Path(f"/proc/{process.pid}/cgroup").read_text()
    except OSError:
        return False
