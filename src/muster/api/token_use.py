"""When tokens were last used: noted in memory by each request, written in the background once a minute.

So a request that only reads never waits for a write, however often a token is used, and one that writes does not
write more. A crash forgets the last minute, which a list of tokens can do without.
"""

import datetime
import logging

from muster.clock import Clock
from muster.errors import StoreError
from muster.store.port import Store, Transaction

FLUSH_SECONDS = 60.0

_log = logging.getLogger(__name__)


class TokenUses:
    """What is noted and not written yet; ``run`` belongs to the process that serves."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._noted: dict[str, datetime.datetime] = {}

    def note(self, token_hash: str, now: datetime.datetime) -> None:
        """Note that a token was used; takes no time."""
        self._noted[token_hash] = now

    @property
    def waiting(self) -> int:
        """How many tokens were used since the last write."""
        return len(self._noted)

    async def run(self) -> None:
        """Write what was noted, for ever."""
        while True:
            await self._clock.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what was noted; what the store does not take now is kept for the next time."""
        noted, self._noted = self._noted, {}
        if not noted:
            return

        def work(tx: Transaction) -> None:
            for token_hash, used_at in noted.items():
                tx.accounts.note_use(token_hash, used_at)

        try:
            await self._store.write(work)
        except StoreError as error:
            self._noted = noted | self._noted
            _log.warning("when tokens were last used could not be written, again in a minute: %s", error)
