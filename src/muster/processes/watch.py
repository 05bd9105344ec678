"""``muster watch``: follows an API from outside and keeps a registry right; as many of them as one likes.

::

    Muster's API  ── StreamFeed ─┐
                                 ├─▸ Watcher ─▸ registry
    AutoDL's API ── PollFeed ────┘      ▲
       containers' addresses ─ Probes ──┘ (only where the API does not say who is ready)

    registry ─▸ Exporter ─▸ a proxy's configuration (if asked for)

What a person has to mend ends it at start, with one line: a wrong token, no entitlement, no API at the address, a
registry URL that says nothing. What may be over in a moment is waited for: an API or a registry that is down. Asked to
stop it retires, so that another one publishes at once; killed, it is replaced within a second.

It needs the base install and the registry's driver, nothing of the server.
"""

import asyncio
import contextlib
import enum
import hashlib
import logging
import ssl
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

from muster.client.async_api import AsyncApi
from muster.clock import Clock, SystemClock
from muster.discovery.export import Exporter
from muster.discovery.poll import INTERVAL_SECONDS, PollFeed
from muster.discovery.poll_api import CONTAINERS, DEPLOYMENTS
from muster.discovery.probe import Probes, Target
from muster.discovery.stream import SERVICES, StreamFeed
from muster.discovery.watcher import Watcher
from muster.errors import (
    FeedError,
    FeedRefused,
    InvalidSpec,
    NotAnApi,
    NotFound,
    RegistryError,
    SetupError,
)
from muster.model.deployment import PORTS
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.model.ids import random_hex
from muster.model.url import shown
from muster.processes.signals import until_stopped
from muster.processes.watch_log import PublishLog, set_up
from muster.registry import connect
from muster.registry.port import Registry

POLLED_ACCOUNT = "admin"
RETRY_SECONDS = 1.0
LONGEST_ANSWER_SECONDS = 10.0
SHORTEST_PATIENCE_SECONDS = 3.0
"""Who asks often also wants to know soon that nobody answers: two intervals, between these bounds."""
RETIRE_SECONDS = 2.0
"""How long the registry may take to hear that we stop; after that our silence tells the others."""
LARGEST_AUTHORITIES = 16 * 1024
"""Some five certificates."""
_SHARED = "file:///ABSOLUTE/FOLDER, redis://HOST[:6379] or etcd://HOST[:2379]"
_DEFAULT_PORTS = {"http": 80, "https": 443}

_log = logging.getLogger(__name__)


class FeedKind(enum.StrEnum):
    """How an API is followed."""

    AUTO = "auto"
    STREAM = "stream"
    POLL = "poll"


@dataclass(frozen=True, slots=True)
class Watched:
    """What to follow, and where to publish it; neither token nor registry may be shown."""

    api: str
    token: str = field(repr=False)
    registry: str = field(repr=False)
    deployments: tuple[str, ...] = ()
    feed: FeedKind = FeedKind.AUTO
    interval_seconds: float = INTERVAL_SECONDS
    account: str | None = None
    concurrency: int | None = None
    ca_file: Path | None = None
    broker_url: str | None = None
    template: str | None = None
    output: Path | None = None
    command: str | None = None

    @property
    def exports(self) -> bool:
        """Whether a proxy is kept right beside the registry."""
        return (self.template, self.output, self.command) != (None, None, None)


@dataclass(frozen=True, slots=True)
class _Source:
    """A feed that was checked, whose deployments it tells of, and its probes if it needs any."""

    feed: StreamFeed | PollFeed
    name: str
    account: str
    probes: Probes | None = None


def run(watched: Watched) -> None:
    """Watch and publish until SIGINT or SIGTERM. Raises ``MusterError`` when it cannot start."""
    set_up()
    asyncio.run(watch(watched))


async def watch(watched: Watched) -> None:
    """Check the API, then publish until stopped."""
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        registry = open_registry(watched.registry)
        stack.push_async_callback(registry.aclose)
        if watched.exports:
            _exporter(registry, watched, POLLED_ACCOUNT, clock)  # refused now, not when the API has come up
        patience = min(LONGEST_ANSWER_SECONDS, max(SHORTEST_PATIENCE_SECONDS, 2 * watched.interval_seconds))
        api = AsyncApi(watched.api, watched.token, ca_file=watched.ca_file, timeout_seconds=patience)
        stack.push_async_callback(api.aclose)
        async with until_stopped() as group:
            source = await _find(api, watched, clock)
            publisher = f"{source.name}/{source.account}#{random_hex(8)}"
            log = PublishLog()

            def take_over(key: ServiceKey, present: EndpointSet) -> None:
                log.take_over(key, present)
                if source.probes is not None:
                    source.probes.adopt(Target(each.id, key.port, each.url) for each in present.endpoints)

            watcher = Watcher(
                source.feed,
                registry,
                clock,
                publisher=publisher,
                on_publish=log.note,
                on_take_over=take_over,
                broker_url=watched.broker_url,
            )
            _log.info(
                "publishing %s of account %s into %s, as %s",
                ", ".join(watched.deployments) or "every deployment",
                source.account,
                shown(watched.registry),
                publisher,
            )
            if source.probes is not None:
                group.create_task(source.probes.run(), name="probes")
            if watched.exports:
                group.create_task(_exporter(registry, watched, source.account, clock).run(), name="export")
            group.create_task(_publish(watcher), name="watcher")


def open_registry(url: str) -> Registry:
    """Open a registry that others can read. Raises ``SetupError``, without the URL's password."""
    scheme = url.partition(":")[0]
    if scheme == "memory":
        raise SetupError(f"--registry: memory:// ends with this process; write {_SHARED}")
    if scheme.startswith("muster+"):
        raise SetupError(f"--registry: a Muster's API publishes its own services, nobody else's; write {_SHARED}")
    try:
        return connect(url)
    except InvalidSpec as error:
        if "@" in url and url in str(error):  # with its password
            raise SetupError(f"--registry: {shown(url)!r} is no registry URL; write {_SHARED}") from None
        raise SetupError(f"--registry: {error.reason}") from error


async def _find(api: AsyncApi, watched: Watched, clock: Clock) -> _Source:
    """Return what to follow, once the API answers. Raises what a person has to mend."""
    while True:
        try:
            return await _look(api, watched, clock)
        except (FeedRefused, NotAnApi):
            raise
        except FeedError as error:
            _log.warning("waiting for the API: %s", error)
        await clock.sleep(RETRY_SECONDS)


async def _look(api: AsyncApi, watched: Watched, clock: Clock) -> _Source:
    if watched.feed is not FeedKind.POLL:
        stream = StreamFeed(api, watched.deployments)
        try:
            source, account = await stream.introduce()
        except (FeedRefused, NotAnApi, NotFound):
            if watched.feed is FeedKind.STREAM:
                raise
        else:
            return _streaming(stream, source, account, watched)
    try:
        await _check_entitlement(api)
    except (FeedRefused, NotAnApi):
        raise
    except FeedError as error:
        if watched.feed is FeedKind.AUTO:
            raise
        _log.warning("waiting for the API: %s", error)  # meanwhile nobody else may mark old sets as stale
    probes = Probes(clock, verify=_trust(watched.ca_file))
    poll = PollFeed(
        api,
        clock,
        probes,
        account=watched.account or POLLED_ACCOUNT,
        deployments=watched.deployments,
        interval_seconds=watched.interval_seconds,
        concurrency=watched.concurrency,
        ca_pem=_authorities(watched.ca_file) or await _told_authority(api),
    )
    _log.info("following %s by asking it every %g s", watched.api, watched.interval_seconds)
    name = f"{_place(watched.api)}~{_fingerprint(watched.token)}"
    return _Source(poll, name, watched.account or POLLED_ACCOUNT, probes)


def _streaming(stream: StreamFeed, source: str, account: str, watched: Watched) -> _Source:
    if watched.account not in (None, account):
        raise SetupError(f"--account: the token is of account {account!r}, which names its services; leave it out")
    if watched.concurrency is not None:
        _log.info("--concurrency is for polling: Muster says itself what its containers take")
    _log.info("following Muster at %s by its stream of changes", watched.api)
    return _Source(stream, source, account)


async def _check_entitlement(api: AsyncApi) -> None:
    """Ask once for what polling will ask for again and again."""
    await api.post(DEPLOYMENTS, {"page_index": 1, "page_size": 1})
    with contextlib.suppress(NotFound):  # an API that wants to be asked for one deployment says so
        try:
            await api.post(CONTAINERS, {"deployment_uuid": "", "page_index": 1, "page_size": 1})
        except FeedError as error:
            if not error.code or isinstance(error, FeedRefused):
                raise


def _exporter(registry: Registry, watched: Watched, account: str, clock: Clock) -> Exporter:
    """Export what is followed: the deployments that were named, or else all that the registry has."""
    keys = [ServiceKey(account, name, port) for name in watched.deployments for port in PORTS]
    return Exporter(
        registry, keys or None, clock, template=watched.template, output=watched.output, command=watched.command
    )


async def _publish(watcher: Watcher) -> None:
    """Watch until cancelled, and say goodbye; here, where a second signal does not cut that short."""
    try:
        await watcher.run()
    finally:
        try:
            async with asyncio.timeout(RETIRE_SECONDS):
                await watcher.retire()
        except (RegistryError, TimeoutError):
            _log.warning("stopped, and the registry could not be told: our silence tells the others")
        else:
            _log.info("retired: another watcher may publish now")


async def _told_authority(api: AsyncApi) -> str | None:
    """Return whose certificates the containers' addresses have, where the API is a Muster and says so."""
    try:
        told: str | None = (await api.get(SERVICES)).get("ca_pem")
    except (FeedError, NotFound):
        return None
    return told


def _fingerprint(token: str) -> str:
    """Tell tokens apart: each may be of another account, whose deployments nobody else may take for ended."""
    return hashlib.sha256(f"muster watch {token}".encode()).hexdigest()[:8]


def _place(url: str) -> str:
    """Return the host and port of an API."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.hostname}:{parts.port or _DEFAULT_PORTS[parts.scheme]}"


def _authorities(ca_file: Path | None) -> str | None:
    """Return what clients have to trust, unless it is a bundle of everybody's, which would travel with every set."""
    text = "" if ca_file is None else ca_file.read_text(encoding="utf-8", errors="replace")
    return text if 0 < len(text) <= LARGEST_AUTHORITIES else None


def _trust(ca_file: Path | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    context = ssl.create_default_context()
    context.load_verify_locations(ca_file)
    return context
