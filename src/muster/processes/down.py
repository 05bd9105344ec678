"""``muster down``: end everything of one home on this machine: supervisor, server, containers.

What was wanted stays in the database, so the next ``up`` starts it again; delete deployments to be rid of them.
"""

import asyncio
from collections.abc import Callable

from muster.config import Settings
from muster.engine.local import LocalEngine
from muster.processes.child import WatchedProcess
from muster.processes.locks import HomeLock
from muster.processes.server import CONTAINERS
from muster.processes.server import LOCK as SERVER_LOCK
from muster.processes.up import LOCK as UP_LOCK
from muster.processes.up import STOP_SECONDS, say_now


def run(settings: Settings, say: Callable[[str], None] = say_now) -> None:
    """End everything; returns when it is gone. Raises ``SetupError`` when the home is taken again meanwhile."""
    asyncio.run(_down(settings, say))


async def _down(settings: Settings, say: Callable[[str], None]) -> None:
    if not settings.home.exists():
        say(f"nothing to end: there is no {settings.home}")
        return
    for role, lock in (("supervisor", UP_LOCK), ("server", SERVER_LOCK)):
        process = WatchedProcess.adopt(settings.home / lock)
        if process is not None:
            await process.end(STOP_SECONDS * 2)
            process.close()
            say(f"ended the {role} (process {process.pid})")
    with HomeLock(settings.home / SERVER_LOCK, "server"):
        engine = LocalEngine(settings.home / CONTAINERS)
        try:
            ended = await engine.purge()
        finally:
            await engine.aclose()
    say(f"ended {ended} container{'' if ended == 1 else 's'}")
