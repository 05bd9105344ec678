"""One worker of a gateway: accepts on the sockets that its parent opened, and carries requests.

    sockets ▸ data plane ─▸ reception ─▸ services ─▸ gates            registry ─▸ sets of what is served
                   ╰─▸ records ▸ access log, counters ─▸ parent                ╰─▸ a broker, if there is one

It does what its parent says (``gateway_channel.py``). When it is to leave, or finds that its parent has gone, it
accepts nothing more, answers what is under way, and ends; what is not over in time is broken off.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from muster.balancer.statistics_json import service_value
from muster.balancer.waiting import Gate
from muster.broker.link import Link, addresses
from muster.errors import MusterError, SetupError
from muster.gateway.access_log import AccessLog
from muster.gateway.config import OFF, GatewayConfig
from muster.gateway.ledger import Ledger
from muster.gateway.metrics import Counters
from muster.gateway.port import Hall, Limits, Record
from muster.gateway.protocol import GatewayProtocols, gateway_protocol
from muster.gateway.reception import reception_of
from muster.gateway.services import Services
from muster.model.endpoint import ServiceKey
from muster.model.url import shown
from muster.processes import descriptors
from muster.processes.child import EXIT_SETUP
from muster.processes.gateway_channel import Channel, Message, inherited
from muster.processes.gateway_tls import ShownCertificate
from muster.processes.loops import loop_factory
from muster.processes.watch import open_registry
from muster.processes.watch_log import set_up

FIGURES_SECONDS = 1.0
_LARGEST_PART = 0.02
"""Of a worker's time may go into telling what its balancers know."""
_LOOK_SECONDS = 0.02
_HANDSHAKE_SECONDS = 10.0
_IDLE_SECONDS = 0.2
"""For requests that are on their way over connections which have none when it is to leave."""
_KB = 1024
_THE_PARENTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Who sends one to a whole group of processes means the parent, which says what is to be done. A worker that ended by
itself would leave clients waiting at its sockets, which the parent keeps."""

_log = logging.getLogger("muster.processes.gateway_worker")


@dataclass(frozen=True, slots=True)
class Begin:
    """What a worker is given once: descriptors that it inherits, its place among the others, and secrets.

    ``certificate``, with its key, is for files that cannot be used just now; empty without TLS.
    """

    listeners: tuple[int, ...]
    ledger: int
    columns: int
    column: int
    token: str = field(repr=False)
    certificate: str = field(repr=False)


class Worker:
    """One worker's life; ``run`` it on its loop."""

    def __init__(self, channel: Channel, begin: Begin, config: GatewayConfig) -> None:
        self._channel = channel
        self._begin = begin
        self._config = config
        self._ledger = Ledger(begin.ledger, begin.columns, begin.column)
        self._services = Services(
            open_registry(config.registry_url),
            shown(config.registry_url),
            config.account,
            most=config.limits.services,
            wait_seconds=config.wait_seconds,
            on_open=self._beside,
        )
        self._counters = Counters(self._services.knows)
        try:
            self._log = _access_log(config)
        except SetupError as error:  # the parent could open it once; to serve is more than to log
            _log.warning("%s; serving without it until a reload", error)
            self._log = None
        self._lost = 0
        """Lines of access logs that were left for others."""
        self._certificate = None if config.tls is None else ShownCertificate(config.tls, begin.certificate)
        self._leaving = asyncio.Event()
        self._cut = asyncio.Event()
        self._patience_seconds = config.drain_seconds
        self._hall: Hall
        self._protocols: GatewayProtocols

    async def run(self, slots: dict[str, int]) -> None:
        """Serve until told to leave, and be gone when nobody is left."""
        async with self._services.running(), asyncio.TaskGroup() as group:
            reception = reception_of(self._config, self._services, self._ledger, slots)
            self._hall = Hall(reception, self._done, limits_of(self._config))
            self._protocols = gateway_protocol(self._hall)
            servers = [await self._serve(descriptor) for descriptor in self._begin.listeners]
            beside = [group.create_task(self._tell(), name="figures"), group.create_task(self._obey(), name="parent")]
            if self._certificate is not None:
                beside.append(group.create_task(self._certificate.run(), name="certificate"))
            self._channel.send("ready")
            await self._leaving.wait()
            for server in servers:
                server.close()
            await self._drain()
            self._send_figures(has_services=True)
            for task in beside:
                task.cancel()
        if self._log is not None:
            await self._log.aclose()
        await self._channel.aclose()

    async def _serve(self, descriptor: int) -> asyncio.Server:
        listener = socket.socket(fileno=descriptor)
        listener.setblocking(False)
        tls: dict[str, Any] = {}
        if self._certificate is not None:
            tls = {"ssl": self._certificate.context, "ssl_handshake_timeout": _HANDSHAKE_SECONDS}
        return await asyncio.get_running_loop().create_server(self._protocols, sock=listener, backlog=1024, **tls)

    async def _drain(self) -> None:
        """Let what is under way come to its end; the rest is broken off."""
        guests = self._protocols.guests
        self._hall.is_leaving = True
        begun = time.monotonic()
        until = begun + self._patience_seconds
        while guests.open_connections and time.monotonic() < until and not self._cut.is_set():
            if time.monotonic() - begun >= _IDLE_SECONDS:
                self._protocols.close_idle()
            await asyncio.sleep(_LOOK_SECONDS)
        if guests.in_flight:
            _log.warning("%d requests did not end in time and are broken off", guests.in_flight)
        guests.abort()
        self._protocols.close()
        await asyncio.sleep(0)  # for what is over by this

    def _beside(self, key: ServiceKey, gate: Gate) -> Coroutine[Any, Any, None] | None:
        """Return what runs beside a service's subscription: the link to a broker, if there may be one."""
        broker = self._config.broker
        if not (broker or (broker is None and self._begin.token)):
            return None
        return Link(gate, key, self._begin.token, urls=None if broker is None else addresses(broker)).run()

    def _done(self, record: Record) -> None:
        self._counters.count(record)
        if self._log is not None:
            self._log.note(record, time.time())

    # What the parent says.

    async def _obey(self) -> None:
        async for message in self._channel:
            match message["kind"]:
                case "configure":
                    self._channel.send("configured", error=self._configure(message))
                case "reopen":
                    if self._log is not None:
                        self._log.reopen()
                case "leave":
                    self._patience_seconds = message["seconds"]
                    self._leaving.set()
                case "cut":
                    self._cut.set()
        self._leaving.set()  # the parent has gone

    def _configure(self, message: Message) -> str:
        """Take a configuration over, without a touch to what is under way; return what is wrong with it."""
        try:
            config = GatewayConfig.model_validate(message["config"])
            if self._certificate is not None and config.tls is not None:
                self._certificate.replace(config.tls)
            log = self._log
            present = self._config.access_log, self._config.access_log_query
            if log is None or (config.access_log, config.access_log_query) != present:
                log = _access_log(config)
            self._hall.reception = reception_of(config, self._services, self._ledger, message["slots"])
        except MusterError as error:
            return str(error)
        if log is not self._log:
            before, self._log = self._log, log
            if before is not None:
                self._lost += before.lost
                self._closing = asyncio.get_running_loop().create_task(before.aclose())
        self._hall.limits = limits_of(config)
        self._services.bound(most=config.limits.services, wait_seconds=config.wait_seconds)
        self._config = config
        self._patience_seconds = config.drain_seconds
        return ""

    # What it tells.

    async def _tell(self) -> None:
        services_due = 0.0
        while True:
            begun = time.monotonic()
            has_services = begun >= services_due
            self._send_figures(has_services=has_services)
            if has_services:
                services_due = begun + (time.monotonic() - begun) / _LARGEST_PART
            await asyncio.sleep(FIGURES_SECONDS)

    def _send_figures(self, *, has_services: bool) -> None:
        guests = self._protocols.guests
        counters = self._counters.snapshot(
            in_flight=guests.in_flight,
            open_connections=guests.open_connections,
            log_lost=self._lost + (self._log.lost if self._log is not None else 0),
        )
        services = [service_value(each) for each in self._services.shown()] if has_services else None
        self._channel.send("figures", counters=counters, services=services)


def limits_of(config: GatewayConfig) -> Limits:
    """Return what one connection may cost."""
    limits = config.limits
    return Limits(
        head_bytes=limits.head_kb * _KB,
        head_fields=limits.head_fields,
        head_seconds=limits.head_seconds,
        idle_seconds=limits.idle_seconds,
        connect_seconds=limits.connect_seconds,
        replay_bytes=limits.replay_kb * _KB,
        body_seconds=limits.body_seconds,
    )


def _access_log(config: GatewayConfig) -> AccessLog | None:
    return None if config.access_log == OFF else AccessLog(config.access_log, has_query=config.access_log_query)


async def _work(end: socket.socket) -> int:
    channel = await Channel.open(end)
    async for message in channel:
        try:
            await _live(channel, message)
        except (MusterError, ExceptionGroup) as failed:
            error = _first(failed)
            if not isinstance(error, MusterError):
                raise
            channel.send("failed", error=str(error))
            await channel.aclose()
            return EXIT_SETUP
        break
    return 0


async def _live(channel: Channel, message: Message) -> None:
    begin = Begin(
        tuple(message["listeners"]),
        message["ledger"],
        message["columns"],
        message["column"],
        message["token"],
        message["certificate"],
    )
    await Worker(channel, begin, GatewayConfig.model_validate(message["config"])).run(message["slots"])


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def main() -> None:
    """Be a worker: the argument is the descriptor of its end of the channel."""
    for number in _THE_PARENTS:
        signal.signal(number, signal.SIG_IGN)
    set_up()
    descriptors.allow()
    os.set_blocking(int(sys.argv[1]), False)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        raise SystemExit(runner.run(_work(inherited(int(sys.argv[1])))))


if __name__ == "__main__":
    main()
