"""Making, in a thread, what has to be unmade: a process, a socket, open descriptors.

A thread goes on when whoever waits for it is cancelled; what it makes then belongs to nobody, unless it is undone.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def make_in_thread(make: Callable[[], T], undo: Callable[[T], None]) -> T:
    """Return what ``make`` makes; ``undo`` gets it if the caller has gone meanwhile."""
    making = asyncio.ensure_future(asyncio.to_thread(make))

    def abandon(made: "asyncio.Future[T]") -> None:
        if not made.cancelled() and made.exception() is None:
            undo(made.result())

    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(abandon)
        raise
