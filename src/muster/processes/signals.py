"""Turn SIGINT and SIGTERM into one cancellation, which is the only way in which our processes end."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

STOPPING = (signal.SIGINT, signal.SIGTERM)


class _Stopped(Exception):
    """Somebody asked this process to end."""


@contextlib.asynccontextmanager
async def until_stopped() -> AsyncIterator[asyncio.TaskGroup]:
    """Run the body's tasks until all are done, or a signal cancels them.

    An error that is alone in its group is raised as itself, so that callers need not know of groups.
    """
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for number in STOPPING:
        loop.add_signal_handler(number, asked.set)
    try:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(_stop_when(asked), name="signals")
            async with asyncio.TaskGroup() as tasks:
                yield tasks
            waiting.cancel()
    except BaseExceptionGroup as failed:
        _, errors = failed.split(_Stopped)
        if errors is not None:
            raise _alone(errors) from None
    finally:
        for number in STOPPING:
            loop.remove_signal_handler(number)


async def _stop_when(asked: asyncio.Event) -> None:
    await asked.wait()
    raise _Stopped


def _alone(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
