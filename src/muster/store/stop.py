"""Write that a container is to stop: intent, status and event, in the caller's transaction."""

from muster.model.container import Container, StopRequest
from muster.planner.lifecycle import begin_stop
from muster.store.port import Transaction


def ask_to_stop(tx: Transaction, container: Container, request: StopRequest) -> bool:
    """Ask; tell whether that changed anything, which it does not the second time."""
    stopping, events = begin_stop(container, request)
    if stopping == container:
        return False
    tx.containers.update(stopping)
    for event in events:
        tx.events.append(event)
    return True
