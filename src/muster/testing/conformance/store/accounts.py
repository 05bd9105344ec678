"""Accounts and their tokens."""
# ruff: noqa: D102 - the names of the tests are sentences

import pytest

from muster.errors import Conflict
from muster.model.account import Account, Role
from muster.model.ids import AccountId
from muster.store.port import Transaction
from muster.testing.conformance.store.world import START, OpenStore, World, at, in_a_world


class AccountConformance:
    """``Accounts``."""

    def test_an_account_is_found_by_id_name_and_token(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            account = world.account

            def work(tx: Transaction) -> Account:
                tx.accounts.add_token(account.id, "hash-1", "mst_ab", START)
                tx.accounts.add_token(account.id, "hash-2", "mst_cd", START)
                return tx.accounts.add("bob", Role.ADMIN, at(1))

            bob = await world.store.write(work)

            def look(tx: Transaction) -> list[Account | None]:
                accounts = tx.accounts
                return [
                    accounts.get(account.id),
                    accounts.by_name("ann"),
                    accounts.by_token("hash-1"),
                    accounts.by_token("hash-2"),
                    accounts.by_token("hash-3"),
                    accounts.by_name("Ann"),
                    accounts.get(AccountId(99)),
                ]

            assert await world.store.read(look) == [account] * 4 + [None] * 3
            assert await world.store.read(lambda tx: tx.accounts.all()) == [account, bob]
            assert (bob.role, bob.created_at) == (Role.ADMIN, at(1))

        in_a_world(open_store, scenario)

    def test_a_name_is_given_once(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            with pytest.raises(Conflict, match="ann"):
                await world.store.write(lambda tx: tx.accounts.add("ann", Role.ADMIN, START))
            assert len(await world.store.read(lambda tx: tx.accounts.all())) == 1

        in_a_world(open_store, scenario)
