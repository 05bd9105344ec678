"""Wakes everybody who waits for the next committed event.

A ticket is taken before looking, and waited on after having found nothing: a commit in between has already set it, so
none is missed. Whoever waits also looks from time to time, because another process may have written.
"""

import asyncio

from muster.store.port import Changes


class CommitSignal:
    """A bell rung by commits; give ``on_commit`` to the store."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def on_commit(self, changes: Changes) -> None:
        """Ring if there are new events."""
        if changes.has_events:
            rung, self._next = self._next, asyncio.Event()
            rung.set()

    def ticket(self) -> asyncio.Event:
        """Return what the next commit will set."""
        return self._next
