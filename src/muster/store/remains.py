"""Say what became of what a released container left, in the caller's transaction: destroyed, or another's by now."""

from muster.model.ids import ContainerUuid
from muster.store.port import Transaction


def why_gone(tx: Transaction, uuid: ContainerUuid) -> str:
    """Return why a released container has no files any more, for people."""
    taker = tx.containers.taker_of(uuid)
    if taker is None:
        return f"container {uuid} is gone, and its files with it"
    return f"container {uuid} was used again: its files are those of {taker.uuid} now"
