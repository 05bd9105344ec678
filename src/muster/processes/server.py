"""``muster server``: API, loops, feed and discovery over one home folder, as one task group.

::

    api ─▸ store ◂─▸ control plane ─▸ engine        store ─▸ feed ─▸ discovery ─▸ registry

It may be killed at any instruction: everything is in the store, containers go on, and the next start adopts them. It
holds the home's lock while it lives, so a second server on the same home refuses to start and a restart never waits.

Exit codes: 0 was asked to stop, ``EXIT_SETUP`` cannot start as told (trying again will not help), others are crashes.
"""

import asyncio
import contextlib
import logging
import socket
import sys
from pathlib import Path

from muster import engine, registry, store
from muster.api.app import create_app
from muster.api.auth import ensure_admin, new_token
from muster.clock import Clock, SystemClock
from muster.config import Settings, load_settings
from muster.controller.plane import ControlPlane, PlaneOptions
from muster.controller.probe import NetworkProber
from muster.discovery import Watcher
from muster.engine.port import Engine
from muster.errors import MusterError, SetupError
from muster.feed import StoreFeed
from muster.home import read_profile, write_profile
from muster.model.ids import random_hex
from muster.model.image import LOCAL_IMAGE
from muster.planner.lifecycle import Terms
from muster.processes.hardware import offered_machines
from muster.processes.http import HttpServer, listening
from muster.processes.locks import HomeLock
from muster.processes.signals import until_stopped
from muster.registry.port import Registry
from muster.store.port import Store, Transaction

EXIT_SETUP = 3
LOCK = "server.lock"
CONTAINERS = "containers"
DATABASE = "muster.db"

LOCAL_FALLBACK = "no container engine found: using the local one, which runs commands as plain processes of this host"
"""What ``engine = auto`` means until there is another engine."""

_log = logging.getLogger("muster.processes.server")  # not __name__, which is __main__ under the supervisor
_TALKATIVE = ("alembic", "httpcore", "httpx", "uvicorn")
"""Libraries whose INFO lines would bury ours."""


def run(settings: Settings) -> None:
    """Run the server until SIGINT or SIGTERM. Raises ``MusterError`` when it cannot start."""
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if settings.log_level != "debug":
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    asyncio.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Hold the lock and the port, open what lies below, and run until stopped."""
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        lock = stack.enter_context(HomeLock(settings.home / LOCK, "server"))
        listener = stack.enter_context(listening(settings.host, settings.port))
        url = f"http://{settings.reachable_host}:{listener.getsockname()[1]}"
        storage = store.connect(f"sqlite:///{settings.home / DATABASE}")
        stack.push_async_callback(storage.aclose)
        runner = connect_engine(settings)
        stack.push_async_callback(runner.aclose)
        sets = registry.connect(settings.registry_url)
        stack.push_async_callback(sets.aclose)
        await _prepare(settings, storage, clock)
        await _introduce(settings, storage, clock, url)
        lock.tell(url=url)
        await _work(settings, listener, storage, runner, sets, clock)


def connect_engine(settings: Settings) -> Engine:
    """Return the engine that the settings name. Raises ``SetupError`` when it cannot be had."""
    if settings.engine == "docker":
        raise SetupError("engine docker: this version runs containers with the local engine only; use --engine local")
    if settings.engine == "auto":
        _log.warning(LOCAL_FALLBACK)
    return engine.connect(f"local://{settings.home / CONTAINERS}")


async def _work(  # noqa: PLR0917  the parts of one process, each of its own type
    settings: Settings, listener: socket.socket, storage: Store, runner: Engine, sets: Registry, clock: Clock
) -> None:
    plane = ControlPlane(
        store=storage,
        engine=runner,
        clock=clock,
        prober=NetworkProber(),
        random_hex=random_hex,
        options=PlaneOptions(
            terms=Terms(settings.drain_seconds, settings.keep_stopped_seconds),
            full_pass_seconds=settings.full_pass_seconds,
        ),
    )

    http = HttpServer(listener)
    app = create_app(
        store=storage,
        clock=clock,
        registry=sets,
        log_source=runner,
        explain=plane.explanation,
        is_ready=lambda: http.is_serving,
        isolates_tenants=runner.capabilities.isolates_tenants,
        zone=settings.tzinfo,
    )
    async with until_stopped() as group:
        group.create_task(plane.run(), name="control plane")
        group.create_task(Watcher(StoreFeed(storage, clock), sets, clock).run(), name="discovery")
        group.create_task(http.run(app), name="api")


async def _prepare(settings: Settings, storage: Store, clock: Clock) -> None:
    """Write what this host offers: its machines, and the images of the platform."""
    machines = offered_machines(settings, _installation(settings.home / "installation"))
    now = clock.now()

    def work(tx: Transaction) -> None:
        for machine in machines:
            tx.machines.put(machine)
        tx.machines.retire_all_but(frozenset(machine.id for machine in machines))
        tx.images.put_base(LOCAL_IMAGE, "local", "local", now)

    await storage.write(work)


async def _introduce(settings: Settings, storage: Store, clock: Clock, url: str) -> None:
    """Make sure that an admin can log in, and that commands on this host find the server."""
    told = settings.admin_token.get_secret_value() if settings.admin_token else None
    profile = read_profile(settings.profile_path)
    token = told or (profile.token if profile else None)
    if token is None:
        token = new_token()
        sys.stdout.write(f"admin token (shown once, kept in {settings.profile_path}): {token}\n")
        sys.stdout.flush()
    await ensure_admin(storage, clock, token)
    write_profile(settings.profile_path, url, token)


def _installation(path: Path) -> str:
    """Return the id of this installation, drawn at the first start."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().strip()
    draft = path.with_suffix(".new")
    draft.write_text(random_hex(16) + "\n")
    draft.replace(path)
    return path.read_text().strip()


def main() -> None:
    """Be the process that the supervisor starts: settings come from the environment."""
    try:
        run(load_settings())
    except MusterError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(EXIT_SETUP) from None


if __name__ == "__main__":
    main()
