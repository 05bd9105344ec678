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

**Images.** ``create`` fetches what it needs and never waits for it: while an image is on its way it answers
``ABSENT`` with ``progress``, and the caller asks again. One image is fetched once per host, however many wait.

**Reuse.** ``create`` of a run that ``takes_over`` an ended one makes that one's object, with its files, the new run's:
afterwards the old ref is ``ABSENT``. It is one step to an observer: at any instant exactly one of the two has the
files. If neither is there, the files are gone and the call is refused with ``REMOVED_EXTERNALLY``.

**Life.** The command's end is the container's end: whatever the command spawned ends with it. Containers outlive the
process that talks to the engine; observations of them survive it too.

**Errors.** ``EngineUnavailable``: nothing is known, try again. ``MachineUnreachable``, one of these: the host itself
does not answer, so that its containers are replaced if that lasts; never raised of an engine that is merely down on a
host that answers, nor by one on the caller's own host. ``EngineRejected(reason)``: this container can never
run, ``reason`` is a word of ``model.container.Reason``. Nothing else leaves an engine.

**Serialisable.** Arguments and results are plain values without file descriptors or local paths, so that an engine
may be behind a network.
"""

import datetime
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from muster.model.ids import AccountId, ContainerId, MachineId
from muster.model.image import HeldImage, ImageOrder, ImageProgress
from muster.model.run import ContainerRun, Disk, ExecOrder, Observation, Phase, Ref, StopOrder

__all__ = ["Capabilities", "ContainerRun", "Engine", "ExecSession", "Observation", "Phase", "Ref", "StopOrder"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; callers and the conformance suite ask this, never a name or a type.

    ``shares_host_ports``: containers of one machine share its ports, so a command must bind ``MUSTER_PORT_6006``
    instead of 6006. ``isolates_tenants``: any account may use it, not admins only. ``has_images``: containers are made
    from references of registries; without it there is one image, the host. ``reuses_containers``: runs may take over
    ended ones. ``has_exec``: commands can be run beside a container's own. ``dates_logs``: ``logs`` knows ``since``.
    ``gives_addresses_at_start``: addresses are not yet known from ``CREATED`` on. ``limits_resources``: CPU and memory.
    ``has_sftp``, ``can_dial``: the files of a container, and what listens in it, can be reached past its image.
    """

    shares_host_ports: bool
    isolates_tenants: bool
    has_images: bool = False
    reuses_containers: bool = False
    has_exec: bool = False
    dates_logs: bool = False
    gives_addresses_at_start: bool = False
    limits_resources: bool = False
    has_sftp: bool = False
    can_dial: bool = False


class ExecSession(Protocol):
    """A command that runs beside a container's own, from its start to its end."""

    async def write(self, data: bytes) -> None:
        """Give it input; what it no longer reads is dropped."""
        ...

    async def write_eof(self) -> None:
        """End its input; output goes on."""
        ...

    async def resize(self, columns: int, rows: int) -> None:
        """Change the size of its terminal."""
        ...

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield chunks of output until its end: 1 is standard output (all, with a terminal), 2 standard error."""
        ...

    async def exit_code(self) -> int:
        """Return how it ended, once ``output`` is through; follows the shell (128 + signal)."""
        ...

    async def aclose(self) -> None:
        """Let go of it; a command that still runs gets its input's end and a hang-up."""
        ...


class Engine(Protocol):
    """Runs containers. See the module's text for what every method guarantees."""

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do; constant."""
        ...

    async def create(self, run: ContainerRun) -> Observation:
        """Make the container's object, taking over another's if so ordered; does not start it.

        ``ABSENT`` with ``progress`` while what it needs is fetched: ask again.
        """
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

    async def prepare(self, machine_id: MachineId, order: ImageOrder) -> ImageProgress:
        """See that a machine has an image; answers at once how far that is, ask again until it is held.

        Raises ``EngineRejected(IMAGE_PULL_FAILED)`` when it cannot be had.
        """
        ...

    async def images(self, machine_id: MachineId) -> Sequence[HeldImage]:
        """Return the images that a machine holds, by every reference that it knows them by."""
        ...

    async def save(self, ref: Ref, reference: str) -> HeldImage:
        """Make an image of a container's files under a reference of this host, running or not; may take long.

        It is given to orders of the account in its name only, and never fetched from anywhere. The same again changes
        nothing. Raises ``EngineRejected`` when the container is absent.
        """
        ...

    async def disk(self, machine_id: MachineId) -> Disk:
        """Return how full the disk is that holds containers and images."""
        ...

    async def execute(self, ref: Ref, order: ExecOrder) -> ExecSession:
        """Run a command in a running container. Raises ``EngineRejected`` when it does not run."""
        ...

    async def sftp(self, ref: Ref) -> ExecSession:
        """Open the files of a running container: a session whose input and output speak SFTP, version 3.

        It needs nothing of the image. Paths are the container's. Raises ``EngineRejected`` when it does not run.
        """
        ...

    async def dial(self, ref: Ref, host: str, port: int) -> ExecSession:
        """Connect to ``host`` as a running container knows it: a session whose input and output are the connection's.

        Raises ``EngineRejected`` when it does not run, or when nothing answers there.
        """
        ...

    async def host_address(self, machine_id: MachineId, account_id: AccountId) -> str:
        """Return the address by which an account's containers reach this host; empty: the one that others use."""
        ...

    def logs(
        self, ref: Ref, *, tail: int | None = None, since: datetime.datetime | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield output in order, the newest ``tail`` lines of it (``None``: all that is kept), from ``since`` on.

        ``follow`` goes on until the run has ended and everything was yielded. An absent object yields nothing.
        """
        ...

    async def aclose(self) -> None:
        """Let go of the engine; containers run on."""
        ...
