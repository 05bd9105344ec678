"""What users import as ``muster``: finds a service in a registry and balances requests over its replicas.

::

    async with muster.connect("file:///srv/muster/registry") as connection:
        service = connection.service("digits")
        async with httpx.AsyncClient(transport=service.async_transport(), base_url="http://digits") as client:
            await client.post("/classify", json=image, extensions={"muster": {"idempotent": True}})
        async with service.acquire() as lease:             # for anything that is not httpx
            await speak_to(lease.endpoint.url)

    with muster.connect("file:///srv/muster/registry") as connection:
        with httpx.Client(transport=connection.service("digits").transport(), base_url="http://digits") as client:
            client.get("/healthz")

It wires ``registry``, ``balancer`` and ``broker``, and nothing else. A ``Service`` has one balancer, whoever uses it,
so its limits hold over all its transports, tasks and threads. Where the service has a broker and the connection a token
for it, the broker chooses, for all clients, and the balancer here whenever it is away.

Who watches the registry. Async users: one task per service and event loop, made by its first user (an open transport,
``acquire``, ``wait_ready``) and owned by the service; it ends with the last open transport, or with
``Service.aclose`` or ``Connection.aclose``. Sync users: one background thread per connection with an event loop of its
own, which watches all services and is joined by ``Connection.close``. When the registry fails, the last set stays.
"""

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from muster import registry
from muster.balancer import metrics
from muster.balancer.ask import Demands, Features
from muster.balancer.balancer import Balancer
from muster.balancer.call import FeaturesOf
from muster.balancer.explicit import Acquisition, lease_at_once, wait_until
from muster.balancer.lease import Outcome
from muster.balancer.lifetime import LoopThread, TaskWatch, ThreadWatch
from muster.balancer.options import Options, options_from
from muster.balancer.policy import DEFAULT_POLICY, chooser_named
from muster.balancer.queue import DEFAULT_CAPACITY, DEFAULT_WAIT_SECONDS
from muster.balancer.statistics import Statistics
from muster.balancer.status import serve_if_asked
from muster.balancer.subscription import Subscription
from muster.balancer.transport import AsyncMusterTransport, MusterTransport
from muster.balancer.waiting import Gate, ThreadWaiter
from muster.broker.link import Link, addresses
from muster.errors import InvalidSpec, NoEndpoints, SetupError
from muster.model.endpoint import Endpoint, ServiceKey
from muster.model.url import shown

if TYPE_CHECKING:  # needs requests, which not everybody has
    from muster.balancer.requests_adapter import MusterAdapter, PreparedFeaturesOf


TOKEN_VARIABLE = "MUSTER_TOKEN"  # noqa: S105 a name


def connect(
    url: str,
    *,
    account: str = "admin",
    token: str | None = None,
    broker: str | None = None,
    status: str | None = None,
) -> "Connection":
    """Return a connection to the registry at ``url``; nothing is contacted until a service is used.

    ``status`` is an address, like ``127.0.0.1:9464``, where this process tells how it balances (docs/metrics.md);
    ``None`` is what ``MUSTER_STATUS`` says, and an empty one nowhere.

    ``token`` is the account's, for its brokers (docs/broker.md); ``None`` is what ``MUSTER_TOKEN`` says, and without
    one every client chooses by itself. ``broker`` is where they are, ``tls://HOST:7690`` or several with commas;
    ``None`` is what the published sets say, and an empty one nowhere.

    Raises ``InvalidSpec`` for a URL that names no registry, for a ``status`` or a ``broker`` that is no address.
    """
    return Connection(url, account=account, token=token, broker=broker, status=status)


class Connection:
    """A registry and the services that were asked of it; an async and a sync context manager."""

    def __init__(
        self,
        url: str,
        *,
        account: str = "admin",
        token: str | None = None,
        broker: str | None = None,
        status: str | None = None,
    ) -> None:
        registry.connect(url)  # a wrong URL is refused here, not at the first request
        self._token = os.environ.get(TOKEN_VARIABLE, "").strip() if token is None else token
        self._brokers = None if broker is None else addresses(broker)
        self.url = url
        self.account = account
        self._services: dict[ServiceKey, Service] = {}
        self._thread = LoopThread()
        self._lock = threading.Lock()
        self._status = serve_if_asked(status, self._statistics)

    @property
    def status_url(self) -> str | None:
        """Where this process tells how it balances, if it does; what ``muster lb show`` asks."""
        return self._status.url if self._status else None

    def metrics(self) -> str:
        """Return what Prometheus would be told, for an exporter of one's own."""
        return metrics.text(self._statistics())

    def _statistics(self) -> list[Statistics]:
        with self._lock:
            services = list(self._services.values())
        return [each.statistics() for each in services]

    def service(
        self,
        name: str,
        port: int = 6006,
        *,
        concurrency: int | None = None,
        queue_capacity: int = DEFAULT_CAPACITY,
        wait_seconds: float = DEFAULT_WAIT_SECONDS,
        policy: str = DEFAULT_POLICY,
    ) -> "Service":
        """Return the service of a deployment, by its name or uuid; the same object whenever the key is the same.

        ``concurrency`` is the limit of an endpoint that declares none (``None``: a good one is found),
        ``queue_capacity`` how many requests may wait, ``wait_seconds`` for how long where the request does not say,
        ``policy`` how a replica is chosen. The options of the first call for a key hold.
        """
        if not name:
            raise InvalidSpec("service", "is empty: give a deployment's name or uuid")
        key = ServiceKey(self.account, name, port)
        with self._lock:
            if key not in self._services:
                self._services[key] = Service(
                    self.url,
                    key,
                    self._thread,
                    concurrency=concurrency,
                    queue_capacity=queue_capacity,
                    wait_seconds=wait_seconds,
                    policy=policy,
                    token=self._token,
                    brokers=self._brokers,
                )
            return self._services[key]

    async def aclose(self) -> None:
        """Stop watching and fail whoever waits; requests under way finish."""
        async with contextlib.AsyncExitStack() as stack:  # each is closed, even if another one cannot be
            stack.push_async_callback(asyncio.to_thread, self._thread.stop)
            for service in list(self._services.values()):
                stack.push_async_callback(service.aclose)
            stack.push_async_callback(asyncio.to_thread, self._end_status)

    def close(self) -> None:
        """Stop watching and fail whoever waits; requests under way finish. For sync users."""
        with contextlib.ExitStack() as stack:  # each is closed, even if another one cannot be
            stack.callback(self._thread.stop)
            for service in list(self._services.values()):
                stack.callback(service.close)
            stack.callback(self._end_status)

    def _end_status(self) -> None:
        status, self._status = self._status, None
        if status is not None:
            status.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Service:
    """One service and its balancer; made by ``Connection.service``."""

    def __init__(
        self,
        url: str,
        key: ServiceKey,
        thread: LoopThread,
        *,
        concurrency: int | None,
        queue_capacity: int,
        wait_seconds: float,
        policy: str,
        token: str = "",
        brokers: Sequence[str] | None = None,
    ) -> None:
        self.key = key
        core = Balancer(
            str(key),
            random.Random(),  # noqa: S311 - spreads load, hides nothing
            chooser=chooser_named(policy),
            concurrency=concurrency,
            queue_capacity=queue_capacity,
            hint_when_unknown=self._hint,
        )
        self._gate = Gate(core, wait_seconds=wait_seconds)
        self._subscription = Subscription(f"registry {shown(url)}", lambda: registry.connect(url), key, self._gate)
        self._token, self._brokers = token, brokers
        self._by_task = TaskWatch(self._follow)
        self._by_thread = ThreadWatch(self._follow, thread)

    def async_transport(self, *, features: FeaturesOf | None = None) -> AsyncMusterTransport:
        """Return a transport for one ``httpx.AsyncClient``, which closes it.

        ``features`` gets each request that does not give features itself, and returns them.
        """
        return AsyncMusterTransport(self._gate, lifetime=self._by_task.held(), features=features)

    def transport(self, *, features: FeaturesOf | None = None) -> MusterTransport:
        """Return a transport for one ``httpx.Client``, which closes it; ``features`` as for ``async_transport``."""
        return MusterTransport(self._gate, lifetime=self._by_thread.held(), features=features)

    def requests_adapter(self, *, features: "PreparedFeaturesOf | None" = None) -> "MusterAdapter":
        """Return an adapter for one ``requests.Session``: ``session.mount("http://digits", adapter)``.

        ``features`` gets each ``PreparedRequest``. Raises ``SetupError`` where requests is not installed.
        """
        try:
            from muster.balancer.requests_adapter import MusterAdapter  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise SetupError("requests_adapter() needs: pip install requests") from error
        return MusterAdapter(self._gate, lifetime=self._by_thread.held(), features=features)

    def acquire(
        self,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        features: Features | None = None,
        demands: Demands | None = None,
        priority: int = 0,
        tenant: str = "",
        affinity: str = "",
    ) -> "Acquisition":
        """Return a context, for ``async with`` or ``with``, in which one slot of one replica is the caller's.

        ``timeout`` in seconds bounds the wait for the slot; by default the service's ``wait_seconds``. ``deadline`` is
        in how many seconds the work must be done: what could not be is refused. Raises ``InvalidAsk``; entering raises
        ``NoEndpoints``, ``QueueFull``, ``QueueTimeout`` (``CannotMeetDeadline``) or ``NeverFits``.
        """
        options = self._options(
            timeout=timeout,
            deadline=deadline,
            features=features,
            demands=demands,
            priority=priority,
            tenant=tenant,
            affinity=affinity,
        )
        return Acquisition(self._gate, options, self._by_task, self._by_thread)

    def pick(
        self,
        *,
        timeout: float | None = None,
        features: Features | None = None,
        demands: Demands | None = None,
        tenant: str = "",
        affinity: str = "",
    ) -> Endpoint:
        """Return the replica that a request would get now, for those who only want an address.

        No limit is held, and nothing is learned: the balancer does not know what is sent there. ``acquire`` is better
        wherever it can be used. A thread waits for a free replica as ``acquire`` does; in an event loop, which must
        not be blocked, it raises at once what ``acquire`` would raise in the end (see ``wait_ready``).
        """
        options = self._options(timeout=timeout, features=features, demands=demands, tenant=tenant, affinity=affinity)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._by_thread.pin()
            lease = ThreadWaiter(self._gate).acquire(deadline=wait_until(self._gate, options), ask=options.ask)
        else:
            self._by_task.pin()
            lease = lease_at_once(self._gate, options.ask, self._hint())
        self._gate.release(lease, Outcome.FAILED)  # given back unused
        return lease.endpoint

    @property
    def ca_pem(self) -> str | None:
        """The authority to trust at the endpoints, for users of ``acquire`` who speak TLS; the transports know it.

        PEM; ``None`` if there is no set yet, or if the endpoints need none but those that everybody knows.
        """
        present = self._gate.endpoints
        return None if present is None else present.ca_pem

    async def wait_ready(self, min_endpoints: int = 1, timeout: float = DEFAULT_WAIT_SECONDS) -> None:
        """Return when the set holds at least ``min_endpoints``. Raises ``NoEndpoints`` after ``timeout`` seconds."""
        self._by_task.pin()
        if not await self._gate.wait_for_endpoints(min_endpoints, timeout):
            present = self._gate.endpoints
            found = f"unknown service {self._subscription.hint()}" if present is None else f"{len(present.endpoints)}"
            raise NoEndpoints(
                str(self.key), f"{self.key}: waited {timeout:.1f} s for {min_endpoints} endpoints: {found}"
            )

    def statistics(self) -> Statistics:
        """Return the balancer's counts as they are now."""
        return self._gate.statistics()

    async def aclose(self) -> None:
        """Stop watching and fail whoever waits; requests under way finish."""
        self._gate.close()
        self._by_thread.stop()
        await self._by_task.stop()

    def close(self) -> None:
        """Stop watching and fail whoever waits; requests under way finish. For sync users."""
        self._gate.close()
        self._by_thread.stop()

    async def _follow(self) -> None:
        """Follow the registry, and the broker if there may be one, until cancelled."""
        has_broker = bool(self._token) if self._brokers is None else bool(self._brokers)
        if not has_broker:
            await self._subscription.run()
            return
        link = Link(self._gate, self.key, self._token, urls=self._brokers)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._subscription.run())
            group.create_task(link.run(), name="muster: ask a broker")

    def _options(self, **given: object) -> Options:
        said = {name: value for name, value in given.items() if value is not None}
        return options_from(said, self._gate.monotonic())

    def _hint(self) -> str:
        return self._subscription.hint()
