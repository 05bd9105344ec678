"""A host and what it offers, as declared; and how its GPUs divide it into units.

A machine is ``gpu_num`` indivisible units: one GPU with an equal share of the CPUs and of the memory. A container
takes one or more units of one machine. A host without GPUs has one unit per core and the GPU name ``CPU``.
"""

import datetime
from dataclasses import dataclass
from enum import StrEnum

from muster.errors import InvalidSpec
from muster.model.ids import MachineId

CPU_ONLY = "CPU"
RETURNING = "returning"
"""How the problem begins of a machine that answers again, but still runs what has ended on paper."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A host. ``cuda`` is the highest version that its driver supports, without the dot (0: none).

    ``devices`` are the host's own names of its GPUs (indices or uuids, as ``nvidia-smi -L`` lists them), the i-th for
    GPU index i; empty where the GPUs are only declared, and containers then get everything but the device.
    """

    id: MachineId
    data_center: str
    gpu_name: str
    gpu_num: int
    cpu_num: int
    memory_bytes: int
    cuda: int
    price_milliyuan: int
    disk_bytes: int = 0
    address: str = "127.0.0.1"
    chip_corp: str = "nvidia"
    cpu_arch: str = "x86"
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.gpu_num < 1:
            raise InvalidSpec("machine.gpu_num", f"must be at least 1, got {self.gpu_num}")
        if self.devices and len(set(self.devices)) != self.gpu_num:
            raise InvalidSpec("machine.devices", f"must name {self.gpu_num} different GPUs, got {len(self.devices)}")

    @property
    def cpu_per_unit(self) -> int:
        """Whole CPUs that come with one GPU."""
        return self.cpu_num // self.gpu_num

    @property
    def memory_per_unit(self) -> int:
        """Bytes that come with one GPU."""
        return self.memory_bytes // self.gpu_num


class Drain(StrEnum):
    """Whether what runs on a machine is to go: not; as soon as it is replaced or has ended; or at once."""

    NONE = "none"
    GENTLE = "gentle"
    NOW = "now"


@dataclass(frozen=True, slots=True)
class MachineState:
    """What the platform and its operator think of a machine; what it offers is declared elsewhere.

    Writers: ``problem`` (why its engine cannot be used, empty while it can) and ``unreachable_since`` (since when the
    host itself does not answer) by the container loop; ``lost_at`` (since when its containers are replaced) by the
    machine loop or an admin; ``is_cordoned`` and ``drain`` by admins. Nothing new is placed on a machine unless
    ``is_usable``.
    """

    problem: str = ""
    unreachable_since: datetime.datetime | None = None
    lost_at: datetime.datetime | None = None
    is_cordoned: bool = False
    drain: Drain = Drain.NONE

    @property
    def answers(self) -> bool:
        """Whether its engine does, also while what is over there is still being removed."""
        return not self.problem or self.problem.startswith(RETURNING)

    @property
    def is_reachable(self) -> bool:
        """Whether its engine can be used."""
        return not self.problem and self.lost_at is None

    @property
    def is_usable(self) -> bool:
        """Whether something new may be placed there."""
        return self.is_reachable and not self.is_cordoned and self.drain is Drain.NONE
