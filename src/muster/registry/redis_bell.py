"""Rings when a key has changed: one pub/sub connection for all watchers of a handle.

A channel is subscribed with its first listener and left with its last. Redis confirms each subscription, and every
confirmation rings: whoever listens reads once more after it can no longer miss anything, at the start and after each
cut alike. A message that gets lost all the same is made good by the periodic look of whoever listens.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Collection

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from muster.registry.redis_connections import cancellable

LONGEST_RETRY_SECONDS = 1.0
_READ_SECONDS = 5.0
_CANCEL_SECONDS = 0.1

_log = logging.getLogger(__name__)


class Listener:
    """Somebody who looks again when one of its channels rings."""

    def __init__(self) -> None:
        self.channels: frozenset[str] = frozenset()
        self.has_news = asyncio.Event()


class Bell:
    """The pub/sub connection of one event loop; its task lives as long as anybody listens."""

    def __init__(self, client: "Redis") -> None:
        self._client = client
        self._listeners: set[Listener] = set()
        self._pubsub: PubSub | None = None
        self._task: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def listener(self) -> AsyncIterator[Listener]:
        """Listen for as long as the context lasts."""
        listener = Listener()
        self._listeners.add(listener)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="redis pub/sub")
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            if self._listeners:
                await self._forget(listener.channels)
            else:
                await self._end()

    async def hear(self, listener: Listener, channels: Collection[str]) -> None:
        """Let a listener hear exactly these channels from now on."""
        before, listener.channels = listener.channels, frozenset(channels)
        new = listener.channels - before
        if new and self._pubsub is not None:
            with cancellable(), contextlib.suppress(RedisError, OSError):  # the reader notices too, and begins anew
                await self._pubsub.subscribe(*new)
        await self._forget(before - listener.channels)

    def _wanted(self) -> frozenset[str]:
        return frozenset(channel for listener in self._listeners for channel in listener.channels)

    async def _forget(self, channels: Collection[str]) -> None:
        unwanted = set(channels) - self._wanted()
        if unwanted and self._pubsub is not None:
            with cancellable(), contextlib.suppress(RedisError, OSError):
                await self._pubsub.unsubscribe(*unwanted)

    async def _run(self) -> None:
        retry_seconds = 0.05
        while True:
            try:
                async with self._client.pubsub() as pubsub:
                    await pubsub.connect()
                    self._pubsub = pubsub  # not before: who subscribes meanwhile would open a second connection
                    if wanted := self._wanted():
                        await pubsub.subscribe(*wanted)
                    while True:
                        await self._read(pubsub)
                        retry_seconds = 0.05
            except (RedisError, OSError) as error:
                _log.debug("the pub/sub connection broke: %s", type(error).__name__)
            finally:
                self._pubsub = None
            await asyncio.sleep(retry_seconds * (1 + random.random()))  # noqa: S311 - only so that not all come at once
            retry_seconds = min(2 * retry_seconds, LONGEST_RETRY_SECONDS)

    async def _read(self, pubsub: PubSub) -> None:
        if not pubsub.subscribed:
            await asyncio.sleep(0.01)
            return
        message = await pubsub.get_message(timeout=_READ_SECONDS)
        if message is not None and message["type"] in ("message", "subscribe"):
            channel = message["channel"].decode()
            for listener in self._listeners:
                if channel in listener.channels:
                    listener.has_news.set()

    async def _end(self) -> None:
        task, self._task = self._task, None
        while task is not None and not task.done():
            task.cancel()  # again, because a connection that is being made takes a cancellation for its own time-out
            await asyncio.wait((task,), timeout=_CANCEL_SECONDS)
