"""Keeps a coroutine running for as long as somebody needs it: what watches a registry for a service's users.

Async users share one task of their event loop, sync users a thread with a loop of its own. Each is *held* by open
transports, and *pinned* by those who come and go (``acquire``), until somebody stops it.
"""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any


class TaskWatch:
    """Runs a subscription as a task of each loop that uses it, while it is held there or once it is pinned there.

    One for each loop, because a loop may end while others go on.
    """

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._run = run
        self._uses: dict[asyncio.AbstractEventLoop, _Use] = {}

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Run inside the context; the last one to leave it ends what nobody has pinned."""
        use = self._here()
        use.holders += 1
        try:
            self._ensure(use)
            yield
        finally:
            use.holders -= 1
            if not use.holders and not use.is_pinned:
                await _end(use)

    def pin(self) -> None:
        """Run until ``stop``; what is held already needs no pin."""
        use = self._here()
        use.is_pinned = use.is_pinned or not use.holders
        self._ensure(use)

    async def stop(self) -> None:
        """End it in every loop, whoever holds it."""
        for use in list(self._uses.values()):
            await _end(use)

    def _here(self) -> "_Use":
        """Return the use by this loop, and forget those by loops that have ended."""
        for loop in [each for each in list(self._uses) if each.is_closed()]:
            self._uses.pop(loop, None)
        return self._uses.setdefault(asyncio.get_running_loop(), _Use())

    def _ensure(self, use: "_Use") -> None:
        """Start the task; one that failed says so here."""
        if use.task is None:
            use.task = asyncio.get_running_loop().create_task(self._run(), name="muster: watch a service")
        elif use.task.done() and not use.task.cancelled():
            use.task.result()


@dataclass(eq=False, slots=True)
class _Use:
    task: asyncio.Task[None] | None = None
    holders: int = 0
    is_pinned: bool = False


async def _end(use: _Use) -> None:
    task, use.task, use.is_pinned = use.task, None, False
    if task is None:
        return
    if task.get_loop() is not asyncio.get_running_loop():
        with contextlib.suppress(RuntimeError):  # it has ended, and its tasks with it
            task.get_loop().call_soon_threadsafe(task.cancel)
        return
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


class ThreadWatch:
    """Runs a subscription on the connection's thread, while it is held or once it is pinned."""

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]], thread: "LoopThread") -> None:
        self._run = run
        self._thread = thread
        self._future: concurrent.futures.Future[None] | None = None
        self._holders = 0
        self._is_pinned = False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Run inside the context; the last one to leave it ends what nobody has pinned."""
        with self._lock:
            self._holders += 1
        try:
            with self._lock:
                self._ensure()
            yield
        finally:
            with self._lock:
                self._holders -= 1
                future = None if self._holders or self._is_pinned else self._take()
            self._end(future)

    def pin(self) -> None:
        """Run until ``stop``; what is held already needs no pin."""
        with self._lock:
            self._is_pinned = self._is_pinned or not self._holders
            self._ensure()

    def stop(self) -> None:
        """End it, whoever holds it."""
        with self._lock:
            future = self._take()
        self._end(future)

    def _take(self) -> "concurrent.futures.Future[None] | None":
        """Return what is to end. Whoever comes once the lock is free starts anew, and does not use what ends."""
        future, self._future, self._is_pinned = self._future, None, False
        return future

    def _end(self, future: "concurrent.futures.Future[None] | None") -> None:
        if future is not None:
            self._thread.end(future)

    def _ensure(self) -> None:
        if self._future is None:
            self._future = self._thread.run(self._run())
        elif self._future.done() and not self._future.cancelled():
            self._future.result()


class LoopThread:
    """An event loop in a thread: there from the first coroutine until the last has ended, or ``stop``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._running: set[concurrent.futures.Future[None]] = set()

    def run(self, work: Coroutine[Any, Any, None]) -> "concurrent.futures.Future[None]":
        """Start one more coroutine, and the thread with the first."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # A daemon: a program that forgets to close its connection can still end.
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name="muster: watch registries", daemon=True
                )
                self._thread.start()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._running.add(future)
            return future

    def end(self, future: "concurrent.futures.Future[None]") -> None:
        """Cancel one; the thread ends with the last."""
        future.cancel()
        with self._lock:
            self._running.discard(future)
            ending = (None, None) if self._running else self._take()
        _join(*ending)

    def stop(self) -> None:
        """Cancel all and join the thread."""
        with self._lock:
            ending = self._take()
        _join(*ending)

    def _take(self) -> "tuple[asyncio.AbstractEventLoop | None, threading.Thread | None]":
        """Return what is to end. Whoever comes once the lock is free gets another thread."""
        loop, self._loop = self._loop, None
        thread, self._thread = self._thread, None
        self._running.clear()
        return loop, thread


def _join(loop: asyncio.AbstractEventLoop | None, thread: threading.Thread | None) -> None:
    if loop is not None and thread is not None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:  # which cancels what is left, and closes the loop
        runner.get_loop().run_forever()
