"""What watches a registry runs as long as anybody needs it, in whichever loop or thread, whoever comes meanwhile."""

import asyncio
import threading
from collections.abc import Callable

from muster.balancer.lifetime import LoopThread, TaskWatch, ThreadWatch


class Letting:
    """A lock that calls somebody once when it is free again: who comes just then."""

    def __init__(self, comes: Callable[[], object]) -> None:
        self._lock = threading.Lock()
        self._comes: Callable[[], object] | None = comes

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        comes, self._comes = self._comes, None
        if comes is not None:
            comes()


class Watching:
    """A watch that notes how many run."""

    def __init__(self) -> None:
        self.running = 0
        self.begun = threading.Semaphore(0)

    async def run(self) -> None:
        self.running += 1
        self.begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            self.running -= 1


def test_who_comes_while_the_last_one_leaves_has_a_watch() -> None:
    watching, thread = Watching(), LoopThread()
    watch = ThreadWatch(watching.run, thread)
    second = watch.held()
    with watch.held():
        assert watching.begun.acquire(timeout=5)
        watch._lock = Letting(second.__enter__)  # type: ignore[assignment]
    assert watching.begun.acquire(timeout=5), "it uses what was being ended"
    second.__exit__(None, None, None)
    assert watching.running == 0


def test_a_watch_that_begins_while_the_last_one_ends_runs() -> None:
    watching, thread = Watching(), LoopThread()
    begun = [thread.run(watching.run())]
    assert watching.begun.acquire(timeout=5)
    thread._lock = Letting(lambda: begun.append(thread.run(watching.run())))  # type: ignore[assignment]
    thread.end(begun[0])
    assert watching.begun.acquire(timeout=5)
    assert not begun[1].done()
    thread.end(begun[1])
    assert watching.running == 0


def test_each_loop_has_a_watch_of_its_own_which_ends_with_it() -> None:
    watching = Watching()
    watch = TaskWatch(watching.run)

    async def elsewhere() -> None:
        watch.pin()
        await asyncio.sleep(0)
        assert watching.running == 2

    async def scenario() -> None:
        async with watch.held():
            await asyncio.sleep(0)
            await asyncio.to_thread(asyncio.run, elsewhere())
            assert watching.running == 1
        assert watching.running == 0
        watch.pin()
        await asyncio.sleep(0)
        await watch.stop()
        assert watching.running == 0

    asyncio.run(scenario())


def test_stopping_ends_the_watches_of_all_loops() -> None:
    watching, ended = Watching(), threading.Event()
    watch = TaskWatch(watching.run)

    async def elsewhere() -> None:
        watch.pin()
        await asyncio.to_thread(ended.wait)
        while watching.running:  # noqa: ASYNC110 - the other loop tells nobody when its call arrives
            await asyncio.sleep(0.001)

    async def scenario() -> None:
        async with asyncio.timeout(5):
            other = asyncio.create_task(asyncio.to_thread(asyncio.run, elsewhere()))
            await asyncio.to_thread(watching.begun.acquire)
            await watch.stop()
            ended.set()
            await other

    asyncio.run(scenario())
