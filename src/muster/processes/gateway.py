"""``muster gateway``: an HTTP front door with the balancer behind it, as one process for each core.

::

    clients ◂═▸ worker 0 ─┐                         this process: opens the sockets, keeps the workers alive,
    clients ◂═▸ worker 1 ─┼─ figures ─▸ parent ◂─ reads gateway.toml, adds up what they count, and tells it
    clients ◂═▸ worker … ─┘                         at /metrics, /services, /readyz

Signals: SIGHUP reads the file again (one that is wrong is logged and changes nothing) and opens the access log anew,
as SIGUSR1 does; SIGTERM and SIGINT end it when all that is under way is over or ``drain_seconds`` have passed, and a
second one at once. When this process is killed, its workers end as if they had been asked to.

Its workers share a queue: that of the broker which somebody named, or of one of its own (``gateway_broker.py``). Where
they ask it: ``gateway_worker.Worker._beside``.
"""

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from muster.balancer import metrics as balancer_metrics
from muster.balancer.statistics_json import to_json
from muster.balancer.status_http import JSON, Address, Found, StatusServer
from muster.broker.link import addresses
from muster.errors import InvalidSpec, SetupError
from muster.gateway.access_log import AccessLog
from muster.gateway.config import OFF, Bind, GatewayConfig, RouteTable, load
from muster.gateway.ledger import Ledger, Slots
from muster.model.url import shown
from muster.processes.gateway_broker import is_needed, own_broker
from muster.processes.gateway_channel import Message
from muster.processes.gateway_children import Children
from muster.processes.gateway_sockets import listen, listen_alone
from muster.processes.gateway_tls import read as read_certificate
from muster.processes.loops import loop_factory
from muster.processes.signals import STOPPING
from muster.processes.watch import open_registry
from muster.processes.watch_log import set_up

_RELOAD_SECONDS = 10.0
_ROUTES_SHOWN = 4
_PATIENCE_SECONDS = 0.5
"""Longer than workers take that wait for nothing."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person typed: a file, flags that go before it, and a broker's token, which may not be shown."""

    file: Path | None
    flags: Mapping[str, Any] = field(repr=False)
    token: str = field(default="", repr=False)

    def read(self) -> tuple[GatewayConfig, str]:
        """Return what that means now, and the certificate with its key, if there is one. Raises ``SetupError``."""
        config = load(self.file, self.flags)
        if config.broker:
            self._check_broker(config.broker)
        return config, read_certificate(config.tls)

    def _check_broker(self, urls: str) -> None:
        where = "--broker" if self.flags.get("broker") else f"{self.file}: broker"
        try:
            asks_for_token = not all(each.startswith("unix:") for each in addresses(urls))
        except InvalidSpec as error:
            raise SetupError(f"{where}: {error.reason}") from error
        if asks_for_token and not self.token:
            raise SetupError(f"{where}: {shown(urls)} asks for a token: use --token-file, or set MUSTER_TOKEN")


def run(asked: Asked) -> None:
    """Serve until SIGINT or SIGTERM. Raises ``MusterError`` when it cannot start."""
    _have_standard_descriptors()
    set_up()
    if importlib.util.find_spec("httptools") is None:
        raise SetupError("muster gateway needs: pip install 'muster-gpu[gateway]' (httptools is missing)")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(asked))


def _have_standard_descriptors() -> None:
    """Open those that whoever started this has closed: a socket in their place would get the access log."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            os.set_inheritable(opened, True)


async def serve(asked: Asked) -> None:
    """Check what was asked for, open the sockets, and keep the workers alive."""
    config, certificate = asked.read()
    await open_registry(config.registry_url).aclose()  # refused now, and not by each worker
    if config.access_log != OFF:
        await AccessLog(config.access_log).aclose()
    count = config.processes or len(os.sched_getaffinity(0))
    async with contextlib.AsyncExitStack() as stack:
        places, sockets = listen(config.binds, count)
        for each in (one for own in sockets for one in own):
            stack.callback(each.close)
        ledger = Ledger.create(count)
        stack.callback(ledger.close)
        status = None
        if config.status_bind is not None:
            status = stack.enter_context(listen_alone(config.status_bind, "--status"))
        try:
            url = None
            if is_needed(config, asked.token, count):
                url = await stack.enter_async_context(own_broker(config))
            gateway = Gateway(asked, config, places, sockets, ledger, certificate=certificate, own_broker_url=url)
            await gateway.run(status)
        except ExceptionGroup as failed:
            raise _first(failed) from None


class Gateway:
    """The parent: ``run`` it once."""

    def __init__(
        self,
        asked: Asked,
        config: GatewayConfig,
        places: Sequence[Bind],
        sockets: Sequence[Sequence[socket.socket]],
        ledger: Ledger,
        *,
        certificate: str = "",
        own_broker_url: str | None = None,
    ) -> None:
        self._asked = asked
        self._own_broker_url = own_broker_url
        self._config = config
        self._certificate = certificate
        self._places = places
        self._sockets = sockets
        self._slots = Slots(ledger)
        self._assigned = self._slots.assign([each.name for each in config.key])
        self._children = Children(sockets, ledger, self._begin)
        self._stopping, self._cutting, self._reloading = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._status_url = ""

    async def run(self, status: socket.socket | None) -> None:
        """Keep the workers alive until asked to stop, and until they are gone."""
        server = None if status is None else await self._tell(status)
        try:
            with self._signals():
                async with asyncio.TaskGroup() as group:
                    running = group.create_task(self._children.run(lambda: list(self._slots.used)), name="workers")
                    beside = [
                        group.create_task(self._announce(), name="ready"),
                        group.create_task(self._reload_when_asked(), name="reload"),
                    ]
                    await self._stopping.wait()
                    await self._end(running)
                    for each in beside:
                        each.cancel()
        finally:
            if server is not None:
                server.close()
        _log.info("the gateway has ended")

    async def _end(self, running: "asyncio.Task[None]") -> None:
        for each in (one for own in self._sockets for one in own):
            each.close()  # the workers close theirs: who comes now is refused by the kernel, and goes elsewhere
        seconds = self._config.drain_seconds
        said = asyncio.get_running_loop().call_later(
            _PATIENCE_SECONDS, _log.info, "ending; what is under way may take up to %g s, again to cut it off", seconds
        )
        self._children.leave(seconds)
        await self._children.gone(running, seconds, self._cutting)
        said.cancel()

    def _begin(self) -> Message:
        return {
            "config": self._told(self._config),
            "slots": self._assigned,
            "token": self._asked.token,
            "certificate": self._certificate,
        }

    def _told(self, config: GatewayConfig) -> dict[str, Any]:
        """Return what workers are told of the configuration: also where their own broker is."""
        told: dict[str, Any] = config.model_dump(mode="json")
        return told if self._own_broker_url is None else told | {"broker": self._own_broker_url}

    async def _announce(self) -> None:
        await self._children.all_ready.wait()
        config = self._config
        scheme = "http" if config.tls is None else "https"
        where = ", ".join(f"{scheme}://{each}" for each in self._places)
        told = f", metrics at {self._status_url}/metrics" if self._status_url else ""
        count = self._children.count
        _log.info("the gateway is ready at %s (%d process%s%s)", where, count, "" if count == 1 else "es", told)
        _log.info("%s", described(config))
        if self._own_broker_url is not None:
            _log.info("its processes share a queue: muster queue show SERVICE --broker %s", self._own_broker_url)
        if config.is_open_to_others and config.tls is None:
            _log.warning("others reach it, and without [tls] keys and requests can be read on their way")

    # Signals.

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers = {
            **dict.fromkeys(STOPPING, self._stop),
            signal.SIGHUP: self._reloading.set,
            signal.SIGUSR1: self._reopen,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        (self._cutting if self._stopping.is_set() else self._stopping).set()

    def _reopen(self) -> None:
        self._children.tell("reopen")

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reloading.wait()
            self._reloading.clear()
            try:
                config, certificate = await asyncio.to_thread(self._asked.read)
            except SetupError as error:
                _log.error("not reloaded, what was in force stays: %s", error)
            else:
                await self._take(config)
                self._certificate = certificate
            self._reopen()

    async def _take(self, config: GatewayConfig) -> None:
        fixed = self._config.differs_for_good(config)
        if fixed:
            _log.warning("%s: only a restart changes that; the rest is taken over", ", ".join(fixed))
            config = config.model_copy(update={name: getattr(self._config, name) for name in fixed})
        self._assigned = self._slots.assign([each.name for each in config.key])
        self._config = config
        troubles = await self._children.configure(_RELOAD_SECONDS, config=self._told(config), slots=self._assigned)
        for trouble in troubles:
            _log.error("not reloaded everywhere: %s", trouble)
        _log.info("reloaded: %s", described(config))

    # What it tells.

    async def _tell(self, listener: socket.socket) -> asyncio.Server:
        host, port, *_ = listener.getsockname()
        address = Address(host, port)
        self._status_url = address.url
        return await StatusServer(address, self._found).listen(listener)

    def _found(self, path: str) -> Found:
        children = self._children
        match path:
            case "/metrics":
                ours = children.sums.text(processes=children.ready)
                return Found(ours + balancer_metrics.text(children.totals.services()), balancer_metrics.CONTENT_TYPE)
            case "/services":
                return Found(to_json(os.getpid(), children.totals.services()), JSON)
            case "/healthz":
                return Found("ok\n")
            case "/readyz" if self._stopping.is_set():
                return Found("it ends\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
            case "/readyz" if not children.ready:
                return Found("no process accepts connections\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
            case "/readyz":
                return Found(f"{children.ready} of {children.count} processes accept connections\n")
            case "/":
                return Found("muster gateway: /metrics, /services, /healthz, /readyz\n")
        return Found("there is /metrics, /services, /healthz and /readyz\n", status=HTTPStatus.NOT_FOUND)


def described(config: GatewayConfig) -> str:
    """Say in one line where requests go, and as whom they come."""
    if config.route:
        some = [_route(each) for each in config.route[:_ROUTES_SHOWN]]
        routes = ", ".join([*some, *(["…"] if len(config.route) > len(some) else [])])
    elif len(config.service) == 1:
        routes = f"everything → {config.service[0]}"
    else:
        routes = "/SERVICE/…, SERVICE.any.host or the model below /v1/ → " + (
            ", ".join(config.service) or f"any service of {config.account}"
        )
    keys = "no API key is needed"
    if config.needs_key:
        keys = f"{len(config.key)} API key{'' if len(config.key) == 1 else 's'}"
    return f"{routes} (registry {shown(config.registry_url)}; {keys})"


def _route(route: RouteTable) -> str:
    conditions = [
        *([route.host] if route.host else []),
        *([route.path] if route.path else []),
        *(f"{name}: {value}" for name, value in route.header.items()),
        *(["model " + "|".join(route.model)] if route.model else []),
    ]
    return f"{' '.join(conditions) or 'everything'} → {route.service}"


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
