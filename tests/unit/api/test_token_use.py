"""When tokens were last used is written once a minute, whatever is asked."""

import datetime
from pathlib import Path

from muster import store
from muster.api.auth import ensure_admin, hash_token
from muster.api.token_use import FLUSH_SECONDS, TokenUses
from muster.store.port import Changes
from muster.testing.clock import FakeClock, VirtualLoop
from muster.testing.database import empty_database
from muster.testing.executor import InlineExecutor

TOKEN = "mst_used"


def test_uses_are_written_together_once_a_minute(tmp_path: Path) -> None:
    loop = VirtualLoop()
    clock = FakeClock(loop)
    storage = store.connect(empty_database(tmp_path), executor=InlineExecutor())
    commits: list[Changes] = []

    async def last_used() -> datetime.datetime | None:
        return await storage.read(lambda tx: tx.accounts.tokens(tx.accounts.all()[0].id)[0].last_used_at)

    async def scenario() -> None:
        await ensure_admin(storage, clock, TOKEN)
        storage.on_commit(commits.append)
        uses = TokenUses(storage, clock)
        running = loop.create_task(uses.run())
        for _ in range(100):
            uses.note(hash_token(TOKEN), clock.now())
            await clock.sleep(0.1)
        last = clock.now()
        uses.note(hash_token(TOKEN), last)
        uses.note(hash_token("mst_revoked meanwhile"), last)
        assert await last_used() is None
        await clock.sleep(FLUSH_SECONDS)
        assert await last_used() == last
        await clock.sleep(3 * FLUSH_SECONDS)
        assert len(commits) == 1, "a minute in which nothing was used writes nothing"
        running.cancel()
        await storage.aclose()

    loop.run_until_complete(scenario())
    loop.close()


def test_what_the_store_does_not_take_is_kept(tmp_path: Path) -> None:
    loop = VirtualLoop()
    clock = FakeClock(loop)
    storage = store.connect(empty_database(tmp_path), executor=InlineExecutor())

    async def scenario() -> None:
        uses = TokenUses(storage, clock)
        uses.note("hash", clock.now())
        await storage.aclose()
        await uses.flush()
        assert uses.waiting == 1

    loop.run_until_complete(scenario())
    loop.close()
