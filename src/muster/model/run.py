"""One run of a container, as it is ordered from an engine and as an engine sees it.

``Ref`` addresses a run, ``ContainerRun`` and ``StopOrder`` say what to do, ``Observation`` says what is there. All are
plain values without file descriptors or local paths, so that an engine may be behind a network.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from muster.model.container import Address, Reason
from muster.model.ids import AccountId, ContainerId, ContainerUuid, MachineId
from muster.model.image import ImageOrder


@dataclass(frozen=True, slots=True)
class Ref:
    """The address of one run of one container."""

    machine_id: MachineId
    container_id: ContainerId
    generation: int = 1


@dataclass(frozen=True, slots=True)
class ContainerRun:
    """What is to be run. ``env`` may hold secrets: it never shows in ``repr``, logs or listings of the engine.

    An engine adds to ``env`` only what it alone knows: the ports to bind and the addresses that it gave.

    ``devices`` are the host's names of the claimed GPUs, in the order of ``gpu_indices``; empty where GPUs are only
    declared. ``takes_over`` is the ended run whose object, with its files, this one is to become.
    """

    ref: Ref
    uuid: ContainerUuid
    account_id: AccountId
    image: ImageOrder
    cmd: str
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    gpu_indices: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    cpu_num: int = 1
    memory_bytes: int = 0
    data_center: str = "local"
    takes_over: Ref | None = None


@dataclass(frozen=True, slots=True)
class StopOrder:
    """How to end a run: ``cmd_before_shutdown`` (given ``before_seconds``), TERM, ``term_seconds``, KILL."""

    cmd_before_shutdown: str = ""
    before_seconds: float = 5.0
    term_seconds: float = 10.0


class Phase(StrEnum):
    """How far a container's object has come."""

    ABSENT = "absent"
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class Observation:
    """What an engine saw of one container. ``EXITED`` is told only once nothing of the run is left.

    ``addresses`` maps container port to the backend address; it is known from ``CREATED`` on. ``started_at`` is set
    when the command was started, also once it has ended; ``exit_code`` follows the shell (128 + signal).
    ``reason`` is set for an end that the exit code does not explain. ``progress`` says what a ``create`` that answers
    ``ABSENT`` waits for.
    """

    ref: Ref
    phase: Phase
    addresses: Mapping[int, Address] = field(default_factory=lambda: MappingProxyType({}))
    started_at: datetime.datetime | None = None
    finished_at: datetime.datetime | None = None
    exit_code: int | None = None
    reason: Reason | None = None
    message: str = ""
    image_digest: str = ""
    progress: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """Where an engine keeps containers and images: its size, and what is free of it."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class ExecOrder:
    """A command to run beside a container's own, with its environment. ``size`` is columns × rows of a terminal."""

    command: tuple[str, ...]
    has_tty: bool = False
    size: tuple[int, int] | None = None
