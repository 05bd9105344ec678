"""Events: read in the order of their commits, and listed newest first; a cursor skips none or has expired."""
# ruff: noqa: D102 - the names of the tests are sentences

from typing import Any

import pytest

from muster.errors import CursorExpired
from muster.model.account import Role
from muster.model.container import ContainerStatus, Reason
from muster.model.event import Cursor, EventKind
from muster.store.port import EventQuery, Window
from muster.testing.conformance.store.world import START, OpenStore, World, ids, in_a_world


class EventConformance:
    """``Events``."""

    def test_an_event_is_read_as_it_was_written(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            container = await world.placed(await world.deployment(), "c1", 0)
            values: dict[str, Any] = {"reason": Reason.OOM_KILLED, "message": "内存", "exit_code": 137}
            await world.event(container, **values)
            (event,) = await world.store.read(lambda tx: tx.events.after(Cursor(0)))
            assert (event.container_id, event.container_uuid) == (container.id, container.uuid)
            assert (event.reason, event.message, event.exit_code) == (Reason.OOM_KILLED, "内存", 137)
            assert (event.kind, event.status, event.created_at) == (EventKind.STATUS, ContainerStatus.RUNNING, START)

        in_a_world(open_store, scenario)

    def test_events_follow_the_order_of_commits_and_a_cursor_skips_none(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            assert await world.store.read(lambda tx: tx.events.last()) == 0
            deployment = await world.deployment()
            container = await world.placed(deployment, "c1", 0)
            other = await world.store.write(lambda tx: tx.accounts.add("bob", Role.MEMBER, START))
            foreign = await world.placed(await world.deployment("d2", account=other), "c2", 1)
            written = [
                await world.event(container),
                await world.event(foreign),
                await world.event(container, kind=EventKind.READY),
                await world.event(container, kind=EventKind.UNREADY),
            ]
            assert written == sorted(set(written))

            async def after(cursor: int, **options: Any) -> list[int]:
                return ids(await world.store.read(lambda tx: tx.events.after(Cursor(cursor), **options)))

            assert await after(0) == written
            assert await after(written[1]) == written[2:]
            assert await after(written[-1]) == []
            assert await after(0, limit=2) == written[:2]
            assert await after(0, account_id=other.id) == [written[1]]
            assert await after(written[0], account_id=world.account.id) == written[2:]
            assert await world.store.read(lambda tx: tx.events.last()) == written[-1]

        in_a_world(open_store, scenario)

    def test_a_list_is_of_one_account_newest_first_in_windows(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            first = await world.placed(await world.deployment("d1"), "c1", 0)
            second = await world.placed(await world.deployment("d2"), "c2", 1)
            other = await world.store.write(lambda tx: tx.accounts.add("bob", Role.MEMBER, START))
            foreign = await world.placed(await world.deployment("d3", account=other), "c3", 2)
            await world.event(foreign)
            own = [await world.event(first), await world.event(second), await world.event(first)]
            ready = await world.event(first, kind=EventKind.READY)

            async def find(**fields: Any) -> tuple[list[int], int]:
                query = EventQuery(world.account.id, **fields)
                page = await world.store.read(lambda tx: tx.events.find(query))
                return ids(page.items), page.total

            newest_first = own[::-1]
            assert await find() == (newest_first, 3)
            assert await find(window=Window(1, 1)) == ([own[1]], 3)
            assert await find(deployment_id=first.deployment_id) == ([own[2], own[0]], 2)
            assert await find(container_uuid=second.uuid) == ([own[1]], 1)
            assert await find(container_uuid=foreign.uuid) == ([], 0)
            assert await find(kinds=frozenset({EventKind.READY, EventKind.UNREADY})) == ([ready], 1)
            assert await find(kinds=frozenset(EventKind)) == ([ready, *newest_first], 4)

        in_a_world(open_store, scenario)

    def test_a_cursor_before_pruned_events_has_expired(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            container = await world.placed(await world.deployment(), "c1", 0)
            written = [await world.event(container) for _ in range(4)]
            assert await world.store.write(lambda tx: tx.events.prune(Cursor(written[0]))) == 1
            assert await world.store.write(lambda tx: tx.events.prune(Cursor(written[1]))) == 1
            assert await world.store.write(lambda tx: tx.events.prune(Cursor(written[0]))) == 0
            with pytest.raises(CursorExpired):
                await world.store.read(lambda tx: tx.events.after(Cursor(written[0])))
            found = await world.store.read(lambda tx: tx.events.after(Cursor(written[1])))
            assert ids(found) == written[2:]

        in_a_world(open_store, scenario)

    def test_the_last_cursor_never_goes_back(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            container = await world.placed(await world.deployment(), "c1", 0)
            last = [await world.event(container) for _ in range(3)][-1]
            assert await world.store.write(lambda tx: tx.events.prune(Cursor(last + 1000))) == 3
            assert await world.store.read(lambda tx: tx.events.last()) == last
            assert await world.store.read(lambda tx: tx.events.after(Cursor(last))) == []
            assert await world.event(container) > last

        in_a_world(open_store, scenario)
