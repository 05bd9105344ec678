"""A host and what it offers, as declared; and how its GPUs divide it into units.

A machine is ``gpu_num`` indivisible units: one GPU with an equal share of the CPUs and of the memory. A container
takes one or more units of one machine. A host without GPUs has one unit per core and the GPU name ``CPU``.
"""

from dataclasses import dataclass

from muster.errors import InvalidSpec
from muster.model.ids import MachineId

CPU_ONLY = "CPU"


@dataclass(frozen=True, slots=True)
class Machine:
    """A host. ``cuda`` is the highest version that its driver supports, without the dot (0: none)."""

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

    def __post_init__(self) -> None:
        if self.gpu_num < 1:
            raise InvalidSpec("machine.gpu_num", f"must be at least 1, got {self.gpu_num}")

    @property
    def cpu_per_unit(self) -> int:
        """Whole CPUs that come with one GPU."""
        return self.cpu_num // self.gpu_num

    @property
    def memory_per_unit(self) -> int:
        """Bytes that come with one GPU."""
        return self.memory_bytes // self.gpu_num
