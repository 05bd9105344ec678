"""Blacklists: an entry holds for one account and for its time; setting it anew keeps when it began."""
# ruff: noqa: D102 - the names of the tests are sentences

from muster.model.account import Account, Role
from muster.model.blacklist import BlacklistEntry
from muster.model.ids import MachineId
from muster.testing.conformance.store.world import OpenStore, World, at, in_a_world


def a_ban(account: Account, machine: str, *, begins: float, ends: float, comment: str = "") -> BlacklistEntry:
    """Return an entry that is set at ``begins``."""
    return BlacklistEntry(
        account_id=account.id,
        machine_id=MachineId(machine),
        data_center="lab-a",
        comment=comment,
        created_at=at(begins),
        updated_at=at(begins),
        expires_at=at(ends),
    )


class BlacklistConformance:
    """``Blacklist``."""

    def test_an_entry_is_of_one_account_and_in_force_until_it_expires(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            bob = await world.store.write(lambda tx: tx.accounts.add("bob", Role.MEMBER, at(0)))
            first = a_ban(world.account, "m1", begins=0, ends=60)
            second = a_ban(world.account, "m0", begins=0, ends=120, comment="慢")
            foreign = a_ban(bob, "m1", begins=0, ends=90)
            for entry in (first, second, foreign):
                await world.store.write(lambda tx, entry=entry: tx.blacklist.put(entry))  # type: ignore[misc]

            async def of(seconds: float) -> list[BlacklistEntry]:
                return list(await world.store.read(lambda tx: tx.blacklist.of(world.account.id, at(seconds))))

            assert await of(0) == [second, first]
            assert await of(60) == [second]
            assert await of(120) == []
            assert await world.store.read(lambda tx: tx.blacklist.in_force(at(59))) == [second, first, foreign]
            assert await world.store.read(lambda tx: tx.blacklist.in_force(at(60))) == [second, foreign]

        in_a_world(open_store, scenario)

    def test_setting_it_anew_keeps_its_beginning_while_it_was_in_force(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            async def put(begins: float, ends: float) -> BlacklistEntry:
                entry = a_ban(world.account, "m1", begins=begins, ends=ends)
                await world.store.write(lambda tx: tx.blacklist.put(entry))
                (found,) = await world.store.read(lambda tx: tx.blacklist.of(world.account.id, at(begins)))
                return found

            await put(0, 60)
            again = await put(30, 100)
            assert (again.created_at, again.updated_at, again.expires_at) == (at(0), at(30), at(100))
            anew = await put(100, 200)
            assert (anew.created_at, anew.expires_at) == (at(100), at(200))

        in_a_world(open_store, scenario)

    def test_an_entry_is_removed_once(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            entry = a_ban(world.account, "m1", begins=0, ends=60)
            await world.store.write(lambda tx: tx.blacklist.put(entry))

            async def remove() -> bool:
                return await world.store.write(lambda tx: tx.blacklist.remove(world.account.id, MachineId("m1")))

            assert [await remove(), await remove()] == [True, False]
            assert await world.store.read(lambda tx: tx.blacklist.in_force(at(0))) == []

        in_a_world(open_store, scenario)
