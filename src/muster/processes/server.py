"""``muster server``: API, loops, feed, discovery and broker over one home folder, as one task group.

::

    api ─▸ store ◂─▸ control plane ─▸ engine        store ─▸ feed ─▸ discovery ─▸ registry ─▸ broker ◂═ clients

It may be killed at any instruction: everything is in the store, containers go on, and the next start adopts them. It
holds the home's lock while it lives, so a second server on the same home refuses to start and a restart never waits.

Exit codes: 0 was asked to stop, ``EXIT_SETUP`` cannot start as told (trying again will not help), others are crashes.
"""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from muster import registry, store
from muster.api.addresses import Reach
from muster.api.app import create_app
from muster.api.auth import ensure_admin, new_token
from muster.api.token_use import TokenUses
from muster.clock import Clock, SystemClock
from muster.config import Settings, load_settings, ports_of
from muster.controller.plane import ControlPlane, FrontOptions, PlaneOptions
from muster.controller.ports import PortRanges
from muster.controller.probe import NetworkProber
from muster.controller.retention import Keep
from muster.discovery.watcher import Watcher
from muster.engine.port import Capabilities, Engine
from muster.errors import MusterError
from muster.feed import StoreFeed
from muster.files import FileStorage
from muster.home import INGRESS_TOKEN, read_profile, shared_secret, write_profile
from muster.model.front import Front
from muster.model.ids import random_hex
from muster.model.image import LOCAL_IMAGE
from muster.model.quantity import GIB
from muster.planner.lifecycle import Terms
from muster.processes.broker_role import open_broker
from muster.processes.child import EXIT_SETUP
from muster.processes.engines import choose
from muster.processes.hardware import offered_machines
from muster.processes.http import HttpServer, listening
from muster.processes.locks import HomeLock
from muster.processes.signals import until_stopped
from muster.processes.storage import file_storage
from muster.registry.port import Registry
from muster.ssh.hostkey import public_host_key
from muster.store.port import Store, Transaction
from muster.tls.published import published_ca
from muster.vault import Vault

LOCK = "server.lock"
DATABASE = "muster.db"
OWN_LEASE_SECONDS = 3.0
"""The server's feed dies with it, so nobody hurries to replace it as a publisher. Its next life goes on at once: it has
the same name, which the home's lock keeps unique."""
VAULT_KEY = "secret.key"

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
        files, installation = file_storage(settings), installation_of(settings.home)
        has_containers = await storage.read(lambda tx: bool(tx.containers.on_machines()))
        chosen = await choose(settings, installation, files, has_containers=has_containers)
        stack.push_async_callback(chosen.engine.aclose)
        if chosen.note:
            _log.warning(chosen.note)
        sets = registry.connect(settings.registry_url)
        stack.push_async_callback(sets.aclose)
        await _prepare(settings, storage, clock, installation, chosen.engine.capabilities)
        await _introduce(settings, storage, clock, url)
        lock.tell(url=url, engine=chosen.name, note=chosen.note)
        await _work(settings, listener, storage, chosen.engine, files, sets, clock, installation)


async def _work(  # noqa: PLR0917  the parts of one process, each of its own type
    settings: Settings,
    listener: socket.socket,
    storage: Store,
    runner: Engine,
    files: FileStorage,
    sets: Registry,
    clock: Clock,
    installation: str,
) -> None:
    vault = Vault(settings.home / VAULT_KEY)
    plane = ControlPlane(
        store=storage,
        engine=runner,
        clock=clock,
        prober=NetworkProber(),
        random_hex=random_hex,
        vault=vault,
        options=PlaneOptions(
            terms=terms_of(settings),
            full_pass_seconds=settings.full_pass_seconds,
            keep_free_bytes=settings.keep_free_gb * GIB,
            lost_after_seconds=settings.lost_after_seconds,
            keep=Keep(settings.keep_events_days, settings.keep_containers_days, settings.keep_audit_days),
            front=front_of(settings),
        ),
    )
    front = None if plane.front is None else plane.front.front
    uses = TokenUses(storage, clock)
    broker = await open_broker(settings, store=storage, sets=sets, clock=clock, uses=uses)
    tell_ca = _ca_of(settings, has_broker=broker is not None)

    feed = StoreFeed(storage, clock, front, ca_pem=tell_ca)
    http = HttpServer(listener)
    app = create_app(
        store=storage,
        clock=clock,
        registry=sets,
        access=runner,
        reach=Reach(front, vault.open),
        ingress=plane.ingress,
        ca_pem=tell_ca,
        feed=feed,
        installation=installation,
        host_key=partial(public_host_key, settings.home) if settings.ingress else None,
        files=files if runner.capabilities.has_images else None,
        vault=vault,
        uses=uses,
        requests_per_second=settings.rate_limit,
        explain=plane.explanation,
        is_ready=lambda: http.is_serving,
        isolates_tenants=runner.capabilities.isolates_tenants,
        zone=settings.tzinfo,
    )
    async with until_stopped() as group:
        group.create_task(plane.run(), name="control plane")
        watcher = Watcher(
            feed,
            sets,
            clock,
            publisher=f"{installation}#server",
            lease_seconds=OWN_LEASE_SECONDS,
            broker_url=None if broker is None else broker.url,
        )
        group.create_task(watcher.run(), name="discovery")
        group.create_task(uses.run(), name="uses of tokens")
        if broker is not None:
            group.create_task(broker.run(), name="broker")
        group.create_task(http.run(app), name="api")


async def _prepare(
    settings: Settings, storage: Store, clock: Clock, installation: str, capabilities: Capabilities
) -> None:
    """Write what this host offers: its machines, and the images of the platform."""
    machines = offered_machines(settings, installation)
    now = clock.now()

    def work(tx: Transaction) -> None:
        for machine in machines:
            tx.machines.put(machine)
        tx.machines.retire_all_but(frozenset(machine.id for machine in machines))
        if not capabilities.has_images:
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


def terms_of(settings: Settings) -> Terms:
    """Return how long containers and what is left of them may last."""
    return Terms(
        drain_seconds=settings.longest_drain_seconds,
        keep_stopped_seconds=settings.keep_stopped_seconds,
        pool_seconds=settings.keep_reusable_seconds,
    )


def front_of(settings: Settings) -> FrontOptions | None:
    """Return how containers are reached through the ingress; ``None`` when there is none."""
    if not settings.ingress:
        return None
    return FrontOptions(
        front=Front(settings.ingress_public_host, settings.ingress_domain or "", settings.ingress_domain_port),
        ports=PortRanges(ports_of(settings.ingress_ports), ports_of(settings.ssh_ports)),
        token=shared_secret(settings.home / INGRESS_TOKEN),
    )


def _ca_of(settings: Settings, *, has_broker: bool) -> Callable[[], str | None]:
    """Return what tells whom clients of containers' addresses, and of the broker, trust."""
    if not (settings.ingress or has_broker):
        return lambda: None
    return published_ca(settings.tls_ca, settings.home, uses_own=settings.tls_certificate is None)


def installation_of(home: Path) -> str:
    """Return the id of this installation, drawn at the first start."""
    path = home / "installation"
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
