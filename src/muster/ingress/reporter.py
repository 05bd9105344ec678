"""The load, told to the server: every second, and at once when somebody waits for what it says.

At once is: a table came into force, whose refusals are acknowledged by the report; or what is in flight in a container
that refuses has changed, whose stop waits for zero. Such changes are gathered for an instant, so that a hundred
connections that end together are one report. A report is complete, so one that is lost is made up for by the next.
"""

import asyncio

from muster.clock import Clock
from muster.errors import ApiUnavailable, Unauthenticated
from muster.ingress.board import Board
from muster.ingress.upstream import REPORT, Trouble, Upstream
from muster.model.ids import ContainerUuid

HEARTBEAT_SECONDS = 1.0
GATHER_SECONDS = 0.02
_ANSWER_SECONDS = 5.0


class Reporter:
    """Tells what a board knows."""

    def __init__(self, upstream: Upstream, board: Board, clock: Clock) -> None:
        self._upstream = upstream
        self._board = board
        self._clock = clock
        self._changed = asyncio.Event()
        self._trouble = Trouble("the load is not told")
        board.on_change(self._changed.set)

    async def run(self) -> None:
        """Report for ever."""
        while True:
            self._changed.clear()
            draining = self._board.draining()
            is_told = await self._report()
            await self._until_due(draining if is_told else None)

    async def _report(self) -> bool:
        report = self._board.report(asyncio.get_running_loop().time())
        try:
            await self._upstream.call("POST", REPORT, timeout_seconds=_ANSWER_SECONDS, content=report.to_json())
        except (ApiUnavailable, Unauthenticated) as error:
            self._trouble.tell(error)
            return False
        self._trouble.over()
        return True

    async def _until_due(self, told: dict[ContainerUuid, int] | None) -> None:
        """Return when the next report is due; ``told`` is what the server knows to be in flight where it waits for it.

        Only while something is left there is it looked at all the time: gates tell nobody, since they are asked by each
        request.
        """
        due_at = self._clock.monotonic() + HEARTBEAT_SECONDS
        while (left := due_at - self._clock.monotonic()) > 0:
            if self._changed.is_set():
                await self._clock.sleep(GATHER_SECONDS)
                return
            if told is not None and self._board.draining() != told:
                return
            if told:
                await self._clock.sleep(min(GATHER_SECONDS, left))
                continue
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return
