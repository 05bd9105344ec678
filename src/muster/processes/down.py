"""``muster down``: end everything of one home on this machine: supervisor, server, ingress, containers.

What was wanted stays in the database, so the next ``up`` starts it again; delete deployments to be rid of them. That
the containers were ended on purpose is written down before they are, or the next ``up`` would take it for trouble; how
they ended is written down afterwards, or it would start others before it knew that these can be used again.

What ended containers left behind on Docker stays, since its files were promised to be kept for reuse; ``purge`` removes
it too, with every trace of this home in Docker. The local engine keeps nothing that is worth it.
"""

import asyncio
import contextlib
from collections.abc import Callable

from muster import store
from muster.clock import SystemClock
from muster.config import Settings
from muster.controller.containers import ContainerReconciler
from muster.engine.local import LocalEngine
from muster.engine.port import Engine
from muster.errors import EngineError, SetupError, StoreError
from muster.model.container import Reason, StopRequest
from muster.model.run import StopOrder
from muster.planner.lifecycle import leave_pool
from muster.processes.child import WatchedProcess
from muster.processes.engines import open_engine, remembered
from muster.processes.locks import INGRESS_LOCK, HomeLock
from muster.processes.server import DATABASE, installation_of, terms_of
from muster.processes.server import LOCK as SERVER_LOCK
from muster.processes.storage import file_storage
from muster.processes.supervise import STOP_SECONDS
from muster.processes.up import LOCK as UP_LOCK
from muster.processes.up import say_now
from muster.store.port import Transaction
from muster.store.stop import ask_to_stop

_MOST_STEPS = 10
"""An ended container takes three: its end, the release of what is gone, and a look that finds nothing more to do."""


def run(settings: Settings, say: Callable[[str], None] = say_now, *, purges: bool = False) -> None:
    """End everything; returns when it is gone. Raises ``SetupError`` when the home is taken again meanwhile."""
    asyncio.run(_down(settings, say, purges=purges))


async def _down(settings: Settings, say: Callable[[str], None], *, purges: bool) -> None:
    if not settings.home.exists():
        say(f"nothing to end: there is no {settings.home}")
        return
    for role, lock in (("supervisor", UP_LOCK), ("server", SERVER_LOCK), ("ingress", INGRESS_LOCK)):
        process = WatchedProcess.adopt(settings.home / lock)
        if process is not None:
            if role != "server" and settings.ingress:
                say(f"ending the {role}; what is in flight may take up to {settings.longest_drain_seconds:g} s")
            await process.end(settings.longest_drain_seconds + STOP_SECONDS * 2)
            process.close()
            say(f"ended the {role} (process {process.pid})")
    with HomeLock(settings.home / SERVER_LOCK, "server"):
        ended = await _write_down(settings, say, purges=purges)
        kept = await _end_containers(settings, purges=purges)
    say(f"ended {ended} container{'' if ended == 1 else 's'}")
    if kept:
        say(f"kept what {kept} ended container{'' if kept == 1 else 's'} left behind; `muster down --purge` removes it")


async def _end_containers(settings: Settings, *, purges: bool) -> int:
    """End what the home's engine runs; return of how many containers something is kept."""
    name = remembered(settings.home) or "local"
    engine = open_engine(settings, name, installation_of(settings.home), file_storage(settings))
    try:
        kept = await _end_all(engine, purges=purges)
        await _write_ends(settings, engine)
    except EngineError as error:
        raise SetupError(f"{error}; the containers of {settings.home} go on") from error
    else:
        return kept
    finally:
        await engine.aclose()


async def _end_all(engine: Engine, *, purges: bool) -> int:
    if isinstance(engine, LocalEngine):
        await engine.purge()
        return 0
    from muster.engine.docker.engine import DockerEngine  # noqa: PLC0415  only who uses Docker pays for it

    assert isinstance(engine, DockerEngine)
    _, kept = await engine.end_all(StopOrder(), keeps_remains=not purges)
    return kept


async def _write_down(settings: Settings, say: Callable[[str], None], *, purges: bool) -> int:
    """Record that everything is being stopped, and the pool emptied; return how many containers are being stopped."""
    if not (settings.home / DATABASE).exists():
        return 0
    now = SystemClock().now()

    def work(tx: Transaction) -> int:
        live = [container for container in tx.containers.on_machines() if container.is_live]
        for container in live:
            ask_to_stop(tx, container, StopRequest(Reason.HOST_STOPPED, now, no_cache=purges))
        for container in tx.containers.pooled() if purges else ():
            tx.containers.update(leave_pool(container, now))
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


async def _write_ends(settings: Settings, engine: Engine) -> None:
    """Record how the containers ended, by the steps of the server's own loop; what fails here the next ``up`` does."""
    if not (settings.home / DATABASE).exists():
        return
    with contextlib.suppress(StoreError, EngineError):
        storage = store.connect(f"sqlite:///{settings.home / DATABASE}")
        try:
            reconciler = ContainerReconciler(storage, engine, SystemClock(), terms_of(settings))
            for _ in range(_MOST_STEPS):
                keys = list(await reconciler.keys())
                for key in keys:
                    await reconciler.reconcile(key)
                if not keys:
                    return
        finally:
            await storage.aclose()
