"""Processes of the local engine, told apart from every stranger that may bear the same pid later.

An ``Identity`` is (boot, pid, start time); it is checked after a pidfd was opened, so the process that is signalled
or waited for is the one that was meant. ``sweep`` ends what a killed shim left behind: everything of which the
environment holds the run's own marker, a random word. What cleared its environment after its shim was killed cannot
be told from a stranger and is left alone.
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from muster.engine import shim

MARKER = "MUSTER_LOCAL_RUN"
_START_TIME, _STATE = 19, 0


@dataclass(frozen=True, slots=True)
class Identity:
    """One process in the life of one kernel."""

    boot_id: str
    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the identity of a process that exists now."""
        fields = shim.stat_fields(pid)
        return cls(shim.boot_id(), pid, int(fields[_START_TIME])) if fields else None

    def open(self) -> int | None:
        """Return a pidfd of this very process, ``None`` when it has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        fields = shim.stat_fields(self.pid)
        if not fields or fields[_STATE] == b"Z" or Identity.of(self.pid) != self:
            os.close(descriptor)
            return None
        return descriptor

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to this very process; returns whether it was there."""
        descriptor = self.open()
        if descriptor is None:
            return False
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True


def sweep(marker: str, seconds: float = 5.0) -> bool:
    """Kill every process that bears the marker; returns whether none was left before the time was up."""
    wanted = f"{MARKER}={marker}".encode()
    deadline = time.monotonic() + seconds
    while True:
        found = [name for name in os.listdir("/proc") if name.isdigit() and _bears(name, wanted)]  # noqa: PTH208
        if not found:
            return True
        for name in found:
            _kill(int(name), wanted)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)


def _bears(name: str, wanted: bytes) -> bool:
    try:
        return wanted in Path("/proc", name, "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _kill(pid: int, wanted: bytes) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _bears(str(pid), wanted):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)
