"""Which containers somebody works on: who makes one's object, and who sweeps what was given up of one.

A death may leave parts of an object: a copy, its image, a folder. Whoever makes the object goes on with them, the sweep
removes them, and what looked given up a moment ago need not be any more. So nobody touches such a part who has not
taken its container first, and whoever has it decides by what is there then.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from muster.errors import EngineUnavailable
from muster.model.ids import ContainerId


class Busy:
    """See the module's text. Of one event loop, so taking needs no lock."""

    def __init__(self) -> None:
        self._taken: set[ContainerId] = set()

    def __contains__(self, container_id: ContainerId) -> bool:
        """Tell whether somebody works on it."""
        return container_id in self._taken

    @contextmanager
    def taking(self, container_id: ContainerId) -> Iterator[None]:
        """Be the only one who works on it, for the block. Raises ``EngineUnavailable`` when somebody else is."""
        if container_id in self._taken:
            raise EngineUnavailable(f"{container_id}: what was given up of it is just being removed")
        self._taken.add(container_id)
        try:
            yield
        finally:
            self._taken.discard(container_id)
