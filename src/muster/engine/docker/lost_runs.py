"""Runs that Docker has lost: the processes are there, and Docker says that the container does not run.

It happens when a daemon dies between the start of a command and the note that it was started, and its containers
outlive it. No call of Docker's reaches such a run, and it would hold its GPUs for ever. The kernel knows its processes:
their control group bears Docker's id of the container. That is looked at only where the container itself has left a
sign that it was started, and Docker says that it was not.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from muster.errors import EngineUnavailable

_END_SECONDS = 10.0
_POLL_SECONDS = 0.02


def end_lost_run(docker_id: str) -> None:
    """Kill the processes of a container on this host; returns when they are gone. Blocks.

    Raises ``EngineUnavailable`` if they cannot be killed.
    """
    deadline = time.monotonic() + _END_SECONDS
    while _kill(docker_id):
        if time.monotonic() > deadline:
            raise EngineUnavailable(f"Docker lost a run of {docker_id[:12]}, and its processes do not end")
        time.sleep(_POLL_SECONDS)


def _kill(docker_id: str) -> bool:
    """Kill what is there; tell whether there was anything."""
    found = False
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        with contextlib.suppress(OSError), _opened(pid) as descriptor:
            if docker_id in (path / "cgroup").read_text(encoding="utf-8", errors="replace"):
                found = True
                _end(descriptor, docker_id)
    return found


@contextlib.contextmanager
def _opened(pid: int) -> Iterator[int]:
    """Hold on to a process, so that its number is not given to another one meanwhile."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _end(descriptor: int, docker_id: str) -> None:
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except PermissionError as error:
        words = f"Docker lost a run of {docker_id[:12]}, which only root can end: restart the machine"
        raise EngineUnavailable(words) from error
