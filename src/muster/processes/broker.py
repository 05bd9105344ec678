"""``muster broker``: one queue for all clients of a registry's services, as a process of its own.

::

    clients ═ TLS ═▸ Broker ─▸ Services ─▸ desks            registry ─▸ sets of what is served
                       ╰─▸ whose is this token? (an API, or one shared token)

Run two for one registry: one serves a service, and the other takes over within two seconds of its death. Neither is in
the way of a request, and without any broker clients choose by themselves. ``muster server`` has the same inside
(``broker_role.py``).

It needs the base install and the registry's driver; for certificates of its own, ``muster-gpu[server]``.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from muster.balancer import status
from muster.balancer.statistics import Statistics
from muster.broker.address import DEFAULT_PORT, Address, read_address
from muster.broker.server import MOST_CONNECTIONS, Broker
from muster.broker.services import QUEUE_CAPACITY, Services
from muster.broker.tokens import ApiTokens, Authenticate, shared_token
from muster.client.async_api import AsyncApi
from muster.clock import SystemClock
from muster.errors import InvalidSpec, SetupError
from muster.model.ids import random_hex
from muster.model.url import shown
from muster.processes import descriptors
from muster.processes.loops import loop_factory
from muster.processes.signals import until_stopped
from muster.processes.watch import open_registry
from muster.processes.watch_log import set_up

if TYPE_CHECKING:
    from muster.tls.certificate import Certificates

LISTEN = (f"tls://127.0.0.1:{DEFAULT_PORT}",)
LEAF = "broker"
"""What the files of its own certificate are called, beside the ingress's."""
API_SECONDS = 4.0
"""Less than an admission may take."""
STATUS_SECONDS = 2.0
_OTHER_FILES = 1024
"""What a process has beside a broker's clients; it is what systems allow at first."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Brokered:
    """What to serve, where, and who may use it; neither token nor registry may be shown."""

    registry: str = field(repr=False)
    home: Path
    listen: tuple[str, ...] = LISTEN
    advertise: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    api: str | None = None
    ca_file: Path | None = None
    token: str | None = field(default=None, repr=False)
    account: str = "admin"
    queue_capacity: int = QUEUE_CAPACITY
    status: str | None = None
    allows_plain: bool = False


def run(brokered: Brokered, say: Callable[[str], None] = print) -> None:
    """Serve until SIGINT or SIGTERM. Raises ``MusterError`` when it cannot start."""
    set_up()
    allow_clients()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(brokered, say))


def allow_clients() -> None:
    """Have a descriptor for each client that a broker takes, and for what else a process needs."""
    wanted = MOST_CONNECTIONS + _OTHER_FILES
    allowed = descriptors.allow(wanted)
    if allowed is not None and allowed < wanted:
        _log.warning(
            "%d open files are allowed, fewer than %d clients may need (ulimit -Hn)", allowed, MOST_CONNECTIONS
        )


async def serve(brokered: Brokered, say: Callable[[str], None]) -> None:
    """Listen, and serve until stopped."""
    addresses = _addresses(brokered)
    authenticate = _authenticate(brokered)
    async with contextlib.AsyncExitStack() as stack:
        registry = open_registry(brokered.registry)
        stack.push_async_callback(registry.aclose)
        certificates = _certificates(brokered, addresses)
        tls = None if certificates is None else certificates.context
        advertise(brokered.advertise, addresses)  # refused now, before anybody is listened to
        services = Services(
            registry,
            SystemClock(),
            where=f"registry {shown(brokered.registry)}",
            broker=random_hex(8),
            queue_capacity=brokered.queue_capacity,
        )
        broker = Broker(services, authenticate)
        real = [await broker.listen(each, tls) for each in addresses]
        services.share(advertise(brokered.advertise, real))
        async with until_stopped() as group:
            if certificates is not None:
                group.create_task(certificates.run(SystemClock()), name="certificates")
            group.create_task(broker.run(), name="broker")
            told = tell(brokered.status, services, "--status")
            if told is not None:
                stack.push_async_callback(asyncio.to_thread, told.close)
            where = ", ".join(each.url for each in real)
            say(f"muster broker serves at {where}  (registry {shown(brokered.registry)}{_status_words(told)})")


def advertise(told: str | None, addresses: Sequence[Address]) -> str:
    """Return by which address clients reach it. Raises ``SetupError`` where nobody can tell."""
    if told is not None:
        return _read(told, "advertise").url
    first = addresses[0]
    if first.is_everywhere:
        raise SetupError(
            f"--listen {first.url}: stands for every address of this host; say by which one clients reach it, like"
            f" --advertise {first._replace(host='HOST').url}"
        )
    return first.url


def tell(written: str | None, services: Services, field: str) -> status.Status | None:
    """Tell each queue's statistics at an address, until that is closed; ``None`` where there is to be none, or can be.

    ``field`` names what the address was written in. Raises ``InvalidSpec`` for what is no address.
    """
    if not written:
        return None
    return status.serve(written, statistics_of(services, asyncio.get_running_loop()), field=field)


def statistics_of(services: Services, loop: asyncio.AbstractEventLoop) -> Callable[[], Sequence[Statistics]]:
    """Return what asks for statistics from another thread: a desk belongs to its event loop."""

    async def look() -> Sequence[Statistics]:
        return services.statistics()

    return lambda: asyncio.run_coroutine_threadsafe(look(), loop).result(STATUS_SECONDS)


def _status_words(told: status.Status | None) -> str:
    return "" if told is None else f", status at {told.url}"


def _addresses(brokered: Brokered) -> list[Address]:
    found = [_read(each, "listen") for each in brokered.listen]
    if not found:
        raise SetupError("--listen: names nothing; is a variable of the shell unset?")
    for each in found:
        if each.scheme == "tcp" and not (each.is_local or brokered.allows_plain):
            raise SetupError(
                f"--listen {each.url}: tokens would cross the network in the clear; write tls://, or --plain if"
                " nobody listens there"
            )
    return found


def _read(written: str, option: str) -> Address:
    try:
        return read_address(written, option)
    except InvalidSpec as error:
        raise SetupError(f"--{option}: {error.reason}") from error


def _authenticate(brokered: Brokered) -> Authenticate:
    if brokered.token is not None:
        return shared_token(brokered.token, brokered.account)
    api = brokered.api
    if api is None:
        raise SetupError(
            "nobody says who may use it: --api URL asks a Muster's API whose a token is, --token-file FILE has one"
            " token for all (with --account NAME)"
        )
    try:
        AsyncApi(api, "", ca_file=brokered.ca_file)  # refused now, not at the first client
    except InvalidSpec as error:
        raise SetupError(f"--{error.field.replace('url', 'api')}: {error.reason}") from error
    return ApiTokens(lambda token: AsyncApi(api, token, ca_file=brokered.ca_file, timeout_seconds=API_SECONDS))


def _certificates(brokered: Brokered, addresses: Sequence[Address]) -> "Certificates | None":
    """Return what to show to clients, ``None`` where nobody speaks TLS. Raises ``SetupError``."""
    if all(each.scheme != "tls" for each in addresses):
        return None
    try:
        from muster.tls.certificate import Certificates  # noqa: PLC0415 needs what the base install does not have
    except ModuleNotFoundError as error:
        raise SetupError(f"tls:// needs: pip install 'muster-gpu[server]' ({error.name} is missing)") from error
    named = [*addresses, *([_read(brokered.advertise, "advertise")] if brokered.advertise else [])]
    names = {each.host for each in named if each.scheme == "tls" and not each.is_everywhere}
    return Certificates.open(brokered.home, names=names, certificate=brokered.certificate, key=brokered.key, leaf=LEAF)
