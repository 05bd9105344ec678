"""Which part a container plays in a plan: an ordered table of rules, the first that matches wins."""

from collections.abc import Collection, Iterable, Mapping
from enum import Enum, auto

from muster.model.container import Container, ContainerStatus
from muster.model.ids import ContainerId


class Part(Enum):
    """The part that a container plays."""

    FINISHED = auto()
    STOPPING = auto()
    LOST = auto()
    UNPLACED = auto()
    STARTING = auto()
    RUNNING = auto()


_RULES = (
    # Its life is over; it only counts as history.
    (Part.FINISHED, lambda container, _: container.is_finished),
    # Somebody asked for its end: it holds its GPUs, but no longer counts towards the wanted number.
    (Part.STOPPING, lambda container, _: not container.is_live),
    # Its machine is gone: it may come back, and is kept until something else has taken its place.
    (Part.LOST, lambda container, lost: container.id in lost),
    # Wanted, but no machine was found for it yet.
    (Part.UNPLACED, lambda container, _: container.status is None),
    (Part.STARTING, lambda container, _: container.status is not ContainerStatus.RUNNING),
    (Part.RUNNING, lambda container, _: container.status is ContainerStatus.RUNNING),
)


def classify(
    containers: Iterable[Container], lost: Collection[ContainerId] = frozenset()
) -> Mapping[Part, list[Container]]:
    """Sort containers into parts, each in the order given."""
    parts: dict[Part, list[Container]] = {part: [] for part in Part}
    for container in containers:
        part = next(part for part, matches in _RULES if matches(container, lost))
        parts[part].append(container)
    return parts
