"""``muster down``: end everything of one home on this machine: supervisor, server, containers.

What was wanted stays in the database, so the next ``up`` starts it again; delete deployments to be rid of them. That
the containers were ended on purpose is written down before they are, or the next ``up`` would take it for trouble.
"""

import asyncio
from collections.abc import Callable

from muster import store
from muster.clock import SystemClock
from muster.config import Settings
from muster.engine.local import LocalEngine
from muster.errors import StoreError
from muster.model.container import Reason, StopRequest
from muster.processes.child import WatchedProcess
from muster.processes.locks import HomeLock
from muster.processes.server import CONTAINERS, DATABASE
from muster.processes.server import LOCK as SERVER_LOCK
from muster.processes.up import LOCK as UP_LOCK
from muster.processes.up import STOP_SECONDS, say_now
from muster.store.port import Transaction
from muster.store.stop import ask_to_stop


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
        ended = await _write_down(settings, say)
        engine = LocalEngine(settings.home / CONTAINERS)
        try:
            await engine.purge()
        finally:
            await engine.aclose()
    say(f"ended {ended} container{'' if ended == 1 else 's'}")


async def _write_down(settings: Settings, say: Callable[[str], None]) -> int:
    """Record that everything is being stopped; return how many containers that is."""
    if not (settings.home / DATABASE).exists():
        return 0
    now = SystemClock().now()

    def work(tx: Transaction) -> int:
        live = [container for container in tx.containers.on_machines() if container.is_live]
        for container in live:
            ask_to_stop(tx, container, StopRequest(Reason.HOST_STOPPED, now))
        return len(live)

    try:
        storage = store.connect(f"sqlite:///{settings.home / DATABASE}")
        try:
            return await storage.write(work)
        finally:
            await storage.aclose()
    except StoreError as error:
        say(f"warning: {error}; ending the containers all the same")
        return 0
