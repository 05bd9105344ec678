"""An ingress without sockets, for a world in virtual time: it follows route tables and reports as a real one does.

Tests say what is in flight (``begin``, ``end``), which ports cannot be opened (``taken``), and take it away
(``is_away``). What it lets in is decided by the real ``Gate``, so refusing and counting are the real thing.
"""

import asyncio
from collections.abc import Callable

from muster.clock import Clock
from muster.controller.link import IngressEnd
from muster.ingress.gate import Gate, Visit
from muster.model.ids import ContainerUuid
from muster.model.routes import LoadReport, Refusal, RouteTable

_SECONDS = 0.5
"""How often it reports; a real one also reports at once what moves a drain."""


class FakeIngress:
    """See the module's text. It outlives the servers that it asks: ``server`` returns the one that lives now."""

    def __init__(self, clock: Clock, server: Callable[[], IngressEnd | None]) -> None:
        self._clock = clock
        self._server = server
        self.gates: dict[ContainerUuid, Gate] = {}
        self.table = RouteTable(0, 0)
        self.taken: dict[int, str] = {}
        self.is_away = False

    def begin(self, uuid: ContainerUuid | None, port: int = 6006) -> Visit | Refusal:
        """Let somebody try to come in."""
        assert uuid is not None
        return self.gates[uuid].enter(port, self._clock.monotonic())

    def end(self, visit: Visit) -> None:
        """Let somebody go, answered."""
        visit.heard(self._clock.monotonic())
        visit.leave(self._clock.monotonic())

    async def run(self) -> None:
        """Follow and report for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(), name="fake ingress follows")
            group.create_task(self._report(), name="fake ingress reports")

    async def _follow(self) -> None:
        while True:
            server = self._server()
            text = None
            if server is not None and not self.is_away:
                text = await server.next_table(self.table.fence, 1.0)
            if text is None or self.is_away:
                await self._clock.sleep(0.05)
                continue
            self._apply(RouteTable.from_json(text))

    async def _report(self) -> None:
        while True:
            server = self._server()
            if server is not None and not self.is_away:
                server.report(self._told())
            await self._clock.sleep(_SECONDS)

    def _apply(self, table: RouteTable) -> None:
        self.table = table
        for route in table.routes:
            gate = self.gates.setdefault(route.container_uuid, Gate(route))
            gate.route = route

    def _told(self) -> LoadReport:
        now = self._clock.monotonic()
        listened = {port.listen_port for route in self.table.routes for port in route.ports}
        return LoadReport(
            ingress="fake",
            epoch=self.table.epoch,
            revision=self.table.revision,
            loads=tuple(self.gates[route.container_uuid].load(now) for route in self.table.routes),
            bind_failures={port: why for port, why in self.taken.items() if port in listened},
        )
