"""The way into a container's namespaces, past whatever its image has: for its files, and for its ports.

In: Docker's id of a running container, and the number of its first process. Out: descriptors of that process and of its
namespaces, or a socket that was made in its network. Docker may name a process that has just ended, and the kernel may
have given its number to a stranger on this host. So the process is held first (a pidfd), then its control group must
bear Docker's id, and it must live when everything of it was opened; what was opened is then the container's.

A thread that has entered a network is not to be trusted to be back, so each is made for one socket and ends with it.
All functions block.
"""

import contextlib
import ctypes
import os
import select
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from muster.errors import EngineRejected, EngineUnavailable
from muster.model.container import Reason

_CLONE_NEWNET: Final = 0x40000000
_SYS_CHROOT, _SYS_PTRACE, _SYS_ADMIN = 18, 19, 21

_libc = ctypes.CDLL(None, use_errno=True)


def can_enter() -> bool:
    """Tell whether this process may enter containers, as root of the host may."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    held = int(status.partition("CapEff:")[2].split()[0], 16)
    return all(held >> number & 1 for number in (_SYS_CHROOT, _SYS_PTRACE, _SYS_ADMIN))


@contextlib.contextmanager
def files_of(docker_id: str, pid: int) -> Iterator[Mapping[str, int]]:
    """Open what ``muster.engine.sftp`` needs to enter a container's files.

    Raises ``EngineRejected`` when it does not run, ``EngineUnavailable`` when it cannot be entered.
    """
    with _opened(docker_id, pid, {"mount": "ns/mnt", "user": "ns/user", "root": "root"}) as descriptors:
        if _is_ours(descriptors["mount"], "mnt"):
            raise EngineRejected(Reason.ERROR, f"files of {docker_id[:12]}: they are this host's")
        if _is_ours(descriptors["user"], "user"):
            yield {name: number for name, number in descriptors.items() if name != "user"}
        else:
            yield descriptors


def make_socket(docker_id: str, pid: int, family: socket.AddressFamily) -> socket.socket:
    """Make a socket for TCP in a container's network. Raises as ``files_of`` does."""
    with _opened(docker_id, pid, {"net": "ns/net"}) as descriptors:
        made: list[socket.socket | OSError] = []

        def enter() -> None:
            if _libc.setns(descriptors["net"], _CLONE_NEWNET) != 0:
                made.append(OSError(ctypes.get_errno(), "setns"))
                return
            try:
                made.append(socket.socket(family, socket.SOCK_STREAM))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=enter, name=f"network of {docker_id[:12]}")
        thread.start()
        thread.join()
    if isinstance(made[0], OSError):
        raise EngineUnavailable(f"the network of {docker_id[:12]} cannot be entered: {made[0]}") from made[0]
    return made[0]


@contextlib.contextmanager
def _opened(docker_id: str, pid: int, paths: Mapping[str, str]) -> Iterator[Mapping[str, int]]:
    """Open paths of a container's process; the process itself is ``until``."""
    with contextlib.ExitStack() as stack:
        descriptors: dict[str, int] = {}

        def keep(name: str, number: int) -> None:
            descriptors[name] = number
            stack.callback(os.close, number)

        process = Path("/proc", str(pid))
        try:
            keep("until", os.pidfd_open(pid))
            if docker_id not in (process / "cgroup").read_text(encoding="utf-8", errors="replace"):
                raise EngineUnavailable(f"process {pid} is not of {docker_id[:12]}: is Docker on another host?")
            for name, path in paths.items():
                keep(name, os.open(process / path, os.O_RDONLY | os.O_CLOEXEC))
        except (FileNotFoundError, ProcessLookupError) as error:
            raise _ended(docker_id) from error
        except OSError as error:
            raise EngineUnavailable(f"{docker_id[:12]} cannot be entered: {error.strerror}") from error
        poll = select.poll()
        poll.register(descriptors["until"], select.POLLIN)
        if poll.poll(0):
            raise _ended(docker_id)
        yield descriptors


def _ended(docker_id: str) -> EngineRejected:
    return EngineRejected(Reason.ERROR, f"{docker_id[:12]} has just ended")


def _is_ours(descriptor: int, kind: str) -> bool:
    """Tell whether a namespace is the one that this process is in."""
    ours, theirs = Path(f"/proc/self/ns/{kind}").stat(), os.fstat(descriptor)
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)
