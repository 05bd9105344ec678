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

It wires ``registry`` and ``balancer``, which do not know each other, and nothing else. A ``Service`` has one balancer,
whoever uses it, so its limits hold over all its transports, tasks and threads.

Who watches the registry. Async users: one task per service and event loop, made by its first user (an open transport,
``acquire``, ``wait_ready``) and owned by the service; it ends with the last open transport, or with
``Service.aclose`` or ``Connection.aclose``. Sync users: one background thread per connection with an event loop of its
own, which watches all services and is joined by ``Connection.close``. When the registry fails, the last set stays.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from muster import registry
from muster.balancer.balancer import Balancer
from muster.balancer.lease import Lease, Outcome
from muster.balancer.limit import DEFAULT_CONCURRENCY
from muster.balancer.queue import DEFAULT_CAPACITY, DEFAULT_WAIT_SECONDS
from muster.balancer.refusal import outcome_of
from muster.balancer.statistics import Statistics
from muster.balancer.transport import AsyncMusterTransport, MusterTransport
from muster.balancer.waiting import AsyncWaiter, Gate, ThreadWaiter
from muster.errors import InvalidSpec, NoEndpoints, RegistryError
from muster.model.endpoint import ServiceKey
from muster.model.url import shown
from muster.registry.port import Registry

_RETRY_SECONDS = 1.0
"""A registry that failed is asked again after this; the last set serves meanwhile."""

_log = logging.getLogger(__name__)


def connect(url: str, *, account: str = "admin") -> "Connection":
    """Return a connection to the registry at ``url``; nothing is contacted until a service is used.

    Raises ``InvalidSpec`` for a URL that names no registry.
    """
    return Connection(url, account=account)


class Connection:
    """A registry and the services that were asked of it; an async and a sync context manager."""

    def __init__(self, url: str, *, account: str = "admin") -> None:
        registry.connect(url)  # a wrong URL is refused here, not at the first request
        self.url = url
        self.account = account
        self._services: dict[ServiceKey, Service] = {}
        self._thread = _LoopThread()
        self._lock = threading.Lock()

    def service(
        self,
        name: str,
        port: int = 6006,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        queue_capacity: int = DEFAULT_CAPACITY,
        wait_seconds: float = DEFAULT_WAIT_SECONDS,
    ) -> "Service":
        """Return the service of a deployment, by its name or uuid; the same object whenever the key is the same.

        ``concurrency`` is the limit of an endpoint that declares none, ``queue_capacity`` how many requests may wait,
        ``wait_seconds`` for how long where the request does not say. The options of the first call for a key hold.
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
                )
            return self._services[key]

    async def aclose(self) -> None:
        """Stop watching and fail whoever waits; requests under way finish."""
        for service in list(self._services.values()):
            await service.aclose()
        await asyncio.to_thread(self._thread.stop)

    def close(self) -> None:
        """Stop watching and fail whoever waits; requests under way finish. For sync users."""
        for service in list(self._services.values()):
            service.close()
        self._thread.stop()

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
        thread: "_LoopThread",
        *,
        concurrency: int,
        queue_capacity: int,
        wait_seconds: float,
    ) -> None:
        self.key = key
        core = Balancer(
            str(key),
            random.Random(),  # noqa: S311 - spreads load, hides nothing
            concurrency=concurrency,
            queue_capacity=queue_capacity,
            hint_when_unknown=self._hint,
        )
        self._gate = Gate(core, wait_seconds=wait_seconds)
        self._subscription = _Subscription(url, key, self._gate)
        self._by_task = _TaskWatch(self._subscription.run)
        self._by_thread = _ThreadWatch(self._subscription.run, thread)

    def async_transport(self) -> AsyncMusterTransport:
        """Return a transport for one ``httpx.AsyncClient``, which closes it."""
        return AsyncMusterTransport(self._gate, lifetime=self._by_task.held())

    def transport(self) -> MusterTransport:
        """Return a transport for one ``httpx.Client``, which closes it."""
        return MusterTransport(self._gate, lifetime=self._by_thread.held())

    def acquire(self, *, timeout: float | None = None) -> "Acquisition":
        """Return a context, for ``async with`` or ``with``, in which one slot of one replica is the caller's.

        ``timeout`` in seconds bounds the wait for the slot; by default the service's ``wait_seconds``. Entering raises
        ``NoEndpoints``, ``QueueFull`` or ``QueueTimeout``.
        """
        seconds = self._gate.wait_seconds if timeout is None else timeout
        return Acquisition(self._gate, seconds, self._by_task, self._by_thread)

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

    def _hint(self) -> str:
        return self._subscription.hint()

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


class Acquisition:
    """The context of ``Service.acquire``; used once.

    A failed connect (``ConnectionRefusedError`` or httpx's connect errors) that leaves the block puts the replica
    aside; any other exception says nothing about it. Whoever is answered 503 with ``x-muster-refused`` tells that by
    ``lease.refused(reason)`` and asks for another lease: nothing was sent to the replica.
    """

    def __init__(self, gate: Gate, seconds: float, by_task: "_TaskWatch", by_thread: "_ThreadWatch") -> None:
        self._gate = gate
        self._seconds = seconds
        self._by_task = by_task
        self._by_thread = by_thread
        self._lease: Lease | None = None

    async def __aenter__(self) -> Lease:
        self._by_task.pin()
        self._lease = await AsyncWaiter(self._gate).acquire(deadline=self._gate.monotonic() + self._seconds)
        return self._lease

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(exc)

    def __enter__(self) -> Lease:
        self._by_thread.pin()
        self._lease = ThreadWaiter(self._gate).acquire(deadline=self._gate.monotonic() + self._seconds)
        return self._lease

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(exc)

    def _end(self, exc: BaseException | None) -> None:
        assert self._lease is not None
        if self._lease.refusal is not None:
            outcome = outcome_of(self._lease.refusal)
        elif exc is None:
            outcome = Outcome.OK
        elif isinstance(exc, ConnectionRefusedError | httpx.ConnectError | httpx.ConnectTimeout):
            outcome = Outcome.UNREACHABLE
        else:
            outcome = Outcome.FAILED
        self._gate.release(self._lease, outcome)


class _Subscription:
    """Carries the sets of one key from the registry to the gate, for as long as ``run`` runs."""

    def __init__(self, url: str, key: ServiceKey, gate: Gate) -> None:
        self._url = url
        self._key = key
        self._gate = gate
        self._neighbours: Sequence[ServiceKey] | None = None
        self._trouble: RegistryError | None = None

    async def run(self) -> None:
        source = registry.connect(self._url)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._learn_neighbours(source))
                group.create_task(self._follow(source))
        finally:
            await source.aclose()

    def hint(self) -> str:
        """Say what a user needs who mistyped a name: the registry, and what it does hold."""
        if self._trouble is not None:
            return f"in registry {shown(self._url)} ({self._trouble})"
        if self._neighbours is None:
            return f"in registry {shown(self._url)}"
        some = [str(each) for each in self._neighbours[:10]]
        more = ["…"] if len(self._neighbours) > len(some) else []
        return f"in registry {shown(self._url)}; known: {', '.join(some + more) or 'none'}"

    async def _follow(self, source: Registry) -> None:
        while True:
            try:
                async for endpoints in source.watch(self._key):
                    present = self._gate.endpoints
                    # The registry never steps back for one target, so what is not newer comes from another one.
                    moved = present is not None and endpoints.fence <= present.fence and endpoints != present
                    self._gate.update(endpoints, is_other_target=moved)
            except RegistryError as error:
                _log.warning("watching %s in %s: %s; the last set stays", self._key, shown(self._url), error)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _learn_neighbours(self, source: Registry) -> None:
        while self._gate.endpoints is None:
            try:
                self._neighbours, self._trouble = await source.keys(), None
            except RegistryError as error:
                self._trouble = error
            await asyncio.sleep(_RETRY_SECONDS)


class _TaskWatch:
    """Runs a subscription as a task of the loop that uses it, while it is held or once it is pinned."""

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._run = run
        self._task: asyncio.Task[None] | None = None
        self._holders = 0
        self._is_pinned = False

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        self._holders += 1
        try:
            self._ensure()
            yield
        finally:
            self._holders -= 1
            if not self._holders and not self._is_pinned:
                await self.stop()

    def pin(self) -> None:
        """Run until ``stop``; what is held already needs no pin."""
        self._is_pinned = self._is_pinned or not self._holders
        self._ensure()

    async def stop(self) -> None:
        task, self._task, self._is_pinned = self._task, None, False
        if task is None or task.get_loop().is_closed():
            return
        if task.get_loop() is not asyncio.get_running_loop():
            task.get_loop().call_soon_threadsafe(task.cancel)
            return
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    def _ensure(self) -> None:
        """Start the task, also after its loop has ended (``asyncio.run`` twice); one that failed says so here."""
        if self._task is not None and self._task.get_loop().is_closed():
            self._task = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="muster: watch a service")
        elif self._task.done() and not self._task.cancelled():
            self._task.result()


class _ThreadWatch:
    """Runs a subscription on the connection's thread, while it is held or once it is pinned."""

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]], thread: "_LoopThread") -> None:
        self._run = run
        self._thread = thread
        self._future: concurrent.futures.Future[None] | None = None
        self._holders = 0
        self._is_pinned = False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            self._holders += 1
        try:
            with self._lock:
                self._ensure()
            yield
        finally:
            with self._lock:
                self._holders -= 1
                is_last = not self._holders and not self._is_pinned
            if is_last:
                self.stop()

    def pin(self) -> None:
        """Run until ``stop``; what is held already needs no pin."""
        with self._lock:
            self._is_pinned = self._is_pinned or not self._holders
            self._ensure()

    def stop(self) -> None:
        with self._lock:
            future, self._future, self._is_pinned = self._future, None, False
        if future is not None:
            self._thread.end(future)

    def _ensure(self) -> None:
        if self._future is None:
            self._future = self._thread.run(self._run())
        elif self._future.done() and not self._future.cancelled():
            self._future.result()


class _LoopThread:
    """An event loop in a thread: there from the first coroutine until the last has ended, or ``stop``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._running: set[concurrent.futures.Future[None]] = set()

    def run(self, work: Coroutine[Any, Any, None]) -> "concurrent.futures.Future[None]":
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # A daemon: a program that forgets to close its connection can still end.
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name="muster: watch registries", daemon=True
                )
                self._thread.start()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._running.add(future)
            return future

    def end(self, future: "concurrent.futures.Future[None]") -> None:
        """Cancel one; the thread ends with the last."""
        future.cancel()
        with self._lock:
            self._running.discard(future)
            is_last = not self._running
        if is_last:
            self.stop()

    def stop(self) -> None:
        """Cancel all and join the thread."""
        with self._lock:
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
            self._running.clear()
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:  # which cancels what is left, and closes the loop
        runner.get_loop().run_forever()
