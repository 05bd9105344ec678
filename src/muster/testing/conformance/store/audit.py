"""The audit log: appended, listed newest first, pruned from its beginning."""
# ruff: noqa: D102 - the names of the tests are sentences

import datetime
from typing import Any

from muster.model.account import Role
from muster.model.audit import NewAuditEntry
from muster.store.port import Transaction, Window
from muster.testing.conformance.store.world import OpenStore, World, at, ids, in_a_world


def an_entry(world: World, number: int, **fields: Any) -> NewAuditEntry:
    """Return an entry of the world's account."""
    values: dict[str, Any] = {
        "account_id": world.account.id,
        "actor": "ann",
        "token_id": "0123456789",
        "action": "deployment.scale",
        "target": "d1",
        "detail": f"to {number}",
        "created_at": at(number),
        **fields,
    }
    return NewAuditEntry(**values)


class AuditConformance:
    """``Audit``."""

    def test_entries_are_listed_newest_first_by_owner_and_target(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            def work(tx: Transaction) -> None:
                bob = tx.accounts.add("bob", Role.MEMBER, at(0))
                tx.audit.append(an_entry(world, 1))
                tx.audit.append(an_entry(world, 2, target="d2"))
                tx.audit.append(an_entry(world, 3, account_id=bob.id, actor="admin"))

            await world.store.write(work)

            async def details(
                *, of_all: bool = False, offset: int = 0, target: str | None = None
            ) -> tuple[list[str], int]:
                owner = None if of_all else world.account.id
                page = await world.store.read(lambda tx: tx.audit.find(owner, Window(offset), target=target))
                return [each.detail for each in page.items], page.total

            assert await details() == (["to 2", "to 1"], 2)
            assert await details(offset=1) == (["to 1"], 2)
            assert await details(target="d1") == (["to 1"], 1)
            assert await details(of_all=True) == (["to 3", "to 2", "to 1"], 3)
            assert await details(of_all=True, target="d1") == (["to 3", "to 1"], 2)
            page = await world.store.read(lambda tx: tx.audit.find(None, Window()))
            assert ids(page.items) == sorted(ids(page.items), reverse=True)
            newest = page.items[0]
            assert (newest.actor, newest.token_id, newest.action) == ("admin", "0123456789", "deployment.scale")
            assert newest.created_at == at(3)

        in_a_world(open_store, scenario)

    def test_pruning_forgets_the_oldest_a_batch_at_a_time(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            def work(tx: Transaction) -> None:
                for number in range(5):
                    tx.audit.append(an_entry(world, number))

            await world.store.write(work)

            async def prune(before: datetime.datetime, at_most: int) -> int:
                return await world.store.write(lambda tx: tx.audit.prune(before, at_most))

            assert await prune(at(0), 10) == 0
            assert [await prune(at(3), 2) for _ in range(3)] == [2, 1, 0]
            page = await world.store.read(lambda tx: tx.audit.find(world.account.id, Window()))
            assert [each.detail for each in page.items] == ["to 4", "to 3"]

        in_a_world(open_store, scenario)
