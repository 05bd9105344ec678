"""Who goes first when fewer are wanted: who serves nobody, then who began to serve last."""

from muster.model.container import Container


def first_to_go(container: Container) -> tuple[int, float, int]:
    """Order for scale-in: not placed, on their way up, running but not ready, ready; of each the youngest first."""
    progress = 0 if container.status is None else 1 if container.status.is_starting else 2 + container.is_ready
    born_at = container.started_at or container.created_at
    return progress, -born_at.timestamp(), -container.number
