"""The engine port: what the control plane may ask of whatever runs containers, stated for implementers.

**Addressing.** Every call names machine, container and generation. An engine holds at most one object per container
id. A call for an *older* generation than the object's is refused with ``EngineRejected("stale_generation")``, so an
order that was delayed in a crash cannot touch a later run. Objects of another installation are invisible and never
touched.

**Idempotence.** Every call may be repeated, also after a crash of either side at any instruction, and also
concurrently for different containers (never for the same one). ``create`` of an existing object returns it as it is;
``start`` of one that has ever been started changes nothing (an ended run is never run again); ``stop`` of one that is
stopping does not begin the sequence anew, and of one that never ran makes ``start`` refuse later; ``remove`` of an
absent object succeeds. Absence is an observation, not an error.

**Life.** The command's end is the container's end: whatever the command spawned ends with it. Containers outlive the
process that talks to the engine; observations of them survive it too.

**Errors.** ``EngineUnavailable``: nothing is known, try again. ``EngineRejected(reason)``: this container can never
run, ``reason`` is a word of ``model.container.Reason``. Nothing else leaves an engine.

**Serialisable.** Arguments and results are plain values without file descriptors or local paths, so that an engine
may be behind a network.
"""

import datetime
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from muster.model.container import Address, Reason
from muster.model.ids import AccountId, ContainerId, ContainerUuid, MachineId


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; callers and the conformance suite ask this, never a name or a type.

    ``shares_host_ports``: containers of one machine share its ports, so a command must bind ``MUSTER_PORT_6006``
    instead of 6006. ``isolates_tenants``: any account may use it, not admins only.
    """

    shares_host_ports: bool
    isolates_tenants: bool


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
    """

    ref: Ref
    uuid: ContainerUuid
    account_id: AccountId
    image: str
    cmd: str
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    gpu_indices: tuple[int, ...] = ()
    cpu_num: int = 1
    memory_bytes: int = 0


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
    ``reason`` is set for an end that the exit code does not explain.
    """

    ref: Ref
    phase: Phase
    addresses: Mapping[int, Address] = field(default_factory=lambda: MappingProxyType({}))
    started_at: datetime.datetime | None = None
    finished_at: datetime.datetime | None = None
    exit_code: int | None = None
    reason: Reason | None = None
    message: str = ""


class Engine(Protocol):
    """Runs containers. See the module's text for what every method guarantees."""

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; constant."""
        ...

    async def create(self, run: ContainerRun) -> Observation:
        """Make the container's object, fetching what it needs; does not start it."""
        ...

    async def start(self, ref: Ref) -> Observation:
        """Start the command, once. Raises ``EngineRejected`` when the object is absent or cannot be started."""
        ...

    async def stop(self, ref: Ref, order: StopOrder) -> Observation:
        """Begin to end the run; returns at once, the end is observed. An object that never ran becomes ``EXITED``."""
        ...

    async def remove(self, ref: Ref) -> None:
        """Delete the object with everything it kept; ends a run that is still there without further grace."""
        ...

    async def observe(self, ref: Ref) -> Observation:
        """Return what is there; ``ABSENT`` when nothing is, or when only an older generation is."""
        ...

    async def observe_all(self, machine_id: MachineId) -> Sequence[Observation]:
        """Return every object of this installation on a machine, with the generation that it has."""
        ...

    def watch(self) -> AsyncIterator[ContainerId]:
        """Yield ids of containers of which something may have changed, soon after it did.

        Hints only: they may repeat, and may be lost; a periodic ``observe_all`` finds what they missed.
        """
        ...

    def logs(self, ref: Ref, *, tail: int | None = None, follow: bool = False) -> AsyncIterator[bytes]:
        """Yield output in order, the newest ``tail`` lines of it (``None``: all that is kept).

        ``follow`` goes on until the run has ended and everything was yielded. An absent object yields nothing.
        """
        ...

    async def aclose(self) -> None:
        """Let go of the engine; containers run on."""
        ...
