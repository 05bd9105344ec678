"""The broker inside of ``muster server``: one queue for all clients of its services, wherever they run.

Tokens are looked up in the store, certificates are the installation's own or the operator's, and the address is told
in every set. The usual port may be somebody else's (another home on this host has a broker, too): then any free one
does, since nobody has to know it beforehand, unless the operator has told clients where to look (``broker_url``).
Nothing here is worth a server that does not start, or ends: without a broker each client has a queue of its own.
"""

import asyncio
import logging
from dataclasses import dataclass

from muster.api.auth import hash_token
from muster.api.token_use import TokenUses
from muster.balancer.status import Status
from muster.broker.address import Address
from muster.broker.server import Broker
from muster.broker.services import Services
from muster.broker.tokens import Authenticate
from muster.clock import Clock
from muster.config import Settings
from muster.errors import SetupError
from muster.ingress.doors import WILDCARDS
from muster.model.ids import random_hex
from muster.model.url import shown
from muster.processes.broker import LEAF, allow_clients, tell
from muster.processes.http import free_port
from muster.registry.port import Registry
from muster.store.port import Store
from muster.tls.certificate import Certificates

_log = logging.getLogger("muster.processes.server")


@dataclass(frozen=True, slots=True)
class BrokerRole:
    """A broker that listens; ``url`` is what clients are told."""

    url: str
    broker: Broker
    certificates: Certificates
    clock: Clock
    told: Status | None

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.broker.run(), name="broker")
                group.create_task(self.certificates.run(self.clock), name="broker certificates")
        except Exception:  # noqa: BLE001 - whatever it is, containers and addresses go on
            _log.exception("the broker has ended: clients choose for themselves until the next start")
        finally:
            if self.told is not None:
                await asyncio.to_thread(self.told.close)


async def open_broker(
    settings: Settings, *, store: Store, sets: Registry, clock: Clock, uses: TokenUses
) -> BrokerRole | None:
    """Listen as the settings say; ``None`` where there is to be no broker, or, after a warning, where none can be.

    Raises ``InvalidSpec`` for a ``broker_status`` that is no address.
    """
    if not settings.broker:
        return None
    allow_clients()
    try:
        certificates = Certificates.open(
            settings.home,
            names={settings.broker_public_host, settings.broker_listen_host} - WILDCARDS,
            certificate=settings.tls_certificate,
            key=settings.tls_key,
            leaf=LEAF,
        )
        services = Services(
            sets,
            clock,
            where=f"registry {shown(settings.registry_url)}",
            broker=random_hex(8),
            queue_capacity=settings.broker_queue,
        )
        broker = Broker(services, _store_tokens(store, clock, uses))
        port = await _listen(settings, broker, certificates)
    except SetupError as error:
        _log.warning("no broker, so each client has a queue of its own: %s", error)
        return None
    own = Address("tls", settings.broker_public_host, port).url
    services.share(own)
    url = settings.broker_url or own
    _log.info("the broker serves at %s, and clients are told %s", own, url)
    return BrokerRole(url, broker, certificates, clock, tell(settings.broker_status, services, "broker_status"))


async def _listen(settings: Settings, broker: Broker, certificates: Certificates) -> int:
    """Return on which port it listens. Raises ``SetupError``."""
    host, port = settings.broker_listen_host, settings.broker_port
    try:
        asked = Address("tls", host, port or free_port(host))
        return (await broker.listen(asked, certificates.context)).port
    except SetupError as error:
        if settings.broker_url is not None or port == 0:
            raise SetupError(f"{error}; set broker_port, and broker_url to match") from error
        free = Address("tls", host, free_port(host))
        _log.warning("broker: %s; serving at port %d instead, as clients are told", error, free.port)
        return (await broker.listen(free, certificates.context)).port


def _store_tokens(store: Store, clock: Clock, uses: TokenUses) -> Authenticate:
    async def authenticate(token: str) -> str | None:
        token_hash, now = hash_token(token), clock.now()
        found = await store.read(lambda tx: tx.accounts.by_token(token_hash, now))
        if found is None:
            return None
        uses.note(token_hash, now)
        return found.name

    return authenticate
