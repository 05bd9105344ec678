"""Tables from the server, as they come: asked for by a request that is answered when there is a newer one.

In: the server's answers. Out: each newer table, first into the snapshot, then in force. What is not newer is dropped,
so that an answer that was delayed changes nothing back; a restarted server begins a greater epoch. While the server
does not answer, or answers nonsense, the last table stays in force, for as long as it takes.
"""

import random

from muster.clock import Clock
from muster.errors import ApiUnavailable, InvalidSpec, Unauthenticated
from muster.ingress.board import Board
from muster.ingress.snapshot import Snapshot
from muster.ingress.upstream import ROUTES, Trouble, Upstream
from muster.model.routes import RouteTable

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
ANSWER_SECONDS = 40.0
"""The server answers after 20 seconds if there is nothing new."""
_SOON_SECONDS = 1.0
"""An answer of nothing new that comes sooner was no wait."""


class Subscriber:
    """Keeps the newest table in force."""

    def __init__(self, upstream: Upstream, snapshot: Snapshot, board: Board, clock: Clock) -> None:
        self._upstream = upstream
        self._snapshot = snapshot
        self._board = board
        self._clock = clock
        self._trouble = Trouble("routes go on as they last were")
        self._rng = random.Random()  # noqa: S311  spreads retries

    async def run(self) -> None:
        """Ask for ever."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            begun = self._clock.monotonic()
            try:
                is_newer = await self.ask()
            except (ApiUnavailable, Unauthenticated, InvalidSpec) as error:
                self._trouble.tell(error)
                is_good = False
            else:
                self._trouble.over()
                is_good = is_newer or self._clock.monotonic() - begun >= _SOON_SECONDS
            if is_good:
                pause = FIRST_PAUSE_SECONDS
                continue
            await self._clock.sleep(pause * self._rng.uniform(0.5, 1.0))
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    async def ask(self) -> bool:
        """Ask once; whether a newer table came and is in force."""
        epoch, revision = self._board.fence
        answer = await self._upstream.call(
            "GET", ROUTES, timeout_seconds=ANSWER_SECONDS, params={"epoch": epoch, "revision": revision}
        )
        if not answer.content:
            return False
        table = RouteTable.from_json(answer.content)
        if table.fence <= self._board.fence:
            return False
        self._snapshot.write(answer.text)
        self._board.apply(table)
        return True
