"""Which event loop a process of the SDK's side runs on: uvloop's where it is installed, else asyncio's own."""

import asyncio
import contextlib
import importlib
from collections.abc import Callable


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what ``asyncio.Runner`` takes."""
    with contextlib.suppress(ModuleNotFoundError):
        made: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
        return made
    return None
