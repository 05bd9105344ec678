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

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from muster.model.ids import ContainerId, MachineId
from muster.model.run import ContainerRun, Observation, Phase, Ref, StopOrder

__all__ = ["Capabilities", "ContainerRun", "Engine", "Observation", "Phase", "Ref", "StopOrder"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; callers and the conformance suite ask this, never a name or a type.

    ``shares_host_ports``: containers of one machine share its ports, so a command must bind ``MUSTER_PORT_6006``
    instead of 6006. ``isolates_tenants``: any account may use it, not admins only.
    """

    shares_host_ports: bool
    isolates_tenants: bool


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
