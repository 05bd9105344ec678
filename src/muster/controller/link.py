"""The server's end of the line to its ingress: hands out route tables, takes load reports, knows the token."""

import hmac

from muster.clock import Clock
from muster.controller.routes import RouteBoard
from muster.controller.traffic import Traffic
from muster.model.routes import LoadReport


class IngressEnd:
    """See the module's text."""

    def __init__(self, board: RouteBoard, traffic: Traffic, clock: Clock, token: str) -> None:
        self._board = board
        self._traffic = traffic
        self._clock = clock
        self._token = token

    async def next_table(self, fence: tuple[int, int], seconds: float) -> str | None:
        """Return the first route table that is newer, as JSON, waiting for it; ``None`` when none comes in time."""
        return await self._board.newer_than(fence, self._clock, seconds)

    def report(self, report: LoadReport) -> None:
        """Take what an ingress tells."""
        self._traffic.put(report)

    def is_ingress(self, token: str) -> bool:
        """Tell whether a token is the one that the ingress of this home has."""
        return hmac.compare_digest(token.encode(), self._token.encode())
