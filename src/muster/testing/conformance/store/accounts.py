"""Accounts and their tokens."""
# ruff: noqa: D102 - the names of the tests are sentences

import dataclasses

import pytest

from muster.errors import Conflict
from muster.model.account import Account, Quota, Role, Token
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
                    accounts.by_token("hash-1", START),
                    accounts.by_token("hash-2", START),
                    accounts.by_token("hash-3", START),
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

    def test_a_quota_is_written_and_taken_away(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            async def quota() -> Quota:
                account = await world.store.read(lambda tx: tx.accounts.get(world.account.id))
                assert account is not None
                return account.quota

            assert await quota() == Quota()
            for wanted in (Quota(gpu_num=8, container_num=0), Quota(container_num=3), Quota()):
                await world.store.write(lambda tx, wanted=wanted: tx.accounts.set_quota(world.account.id, wanted))  # type: ignore[misc]
                assert await quota() == wanted

        in_a_world(open_store, scenario)

    def test_tokens_are_listed_used_and_revoked(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            owner = world.account.id
            first, second = "a" * 64, "b" * 64

            def work(tx: Transaction) -> None:
                tx.accounts.add_token(owner, second, "mst_cd", at(2), name="laptop", expires_at=at(60))
                tx.accounts.add_token(owner, first, "mst_ab", at(1))
                tx.accounts.add_token(owner, first, "mst_zz", at(9), name="again")

            await world.store.write(work)
            plain = Token(id=first[:10], account_id=owner, prefix="mst_ab", name="", created_at=at(1))
            named = Token(second[:10], owner, "mst_cd", "laptop", at(2), expires_at=at(60))
            assert await world.store.read(lambda tx: tx.accounts.tokens(owner)) == [plain, named]

            def use(tx: Transaction) -> None:
                tx.accounts.note_use(second, at(30))
                tx.accounts.note_use("c" * 64, at(30))

            await world.store.write(use)
            used = dataclasses.replace(named, last_used_at=at(30))
            assert await world.store.read(lambda tx: tx.accounts.tokens(owner)) == [plain, used]

            async def revoke(token_id: str, account: AccountId = owner) -> Token | None:
                return await world.store.write(lambda tx: tx.accounts.revoke_token(account, token_id))

            bob = await world.store.write(lambda tx: tx.accounts.add("bob", Role.MEMBER, at(1)))
            assert await revoke(used.id, bob.id) is None
            assert await revoke(used.id) == used
            assert await revoke(used.id) is None
            assert await world.store.read(lambda tx: tx.accounts.by_token(second, at(3))) is None
            assert await world.store.read(lambda tx: tx.accounts.tokens(owner)) == [plain]
            assert await world.store.read(lambda tx: tx.accounts.tokens(bob.id)) == []

        in_a_world(open_store, scenario)

    def test_a_token_acts_until_it_expires(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            def work(tx: Transaction) -> None:
                tx.accounts.add_token(world.account.id, "hash", "mst_ab", START, expires_at=at(60))

            await world.store.write(work)
            assert await world.store.read(lambda tx: tx.accounts.by_token("hash", at(59.999))) == world.account
            assert await world.store.read(lambda tx: tx.accounts.by_token("hash", at(60))) is None
            assert len(await world.store.read(lambda tx: tx.accounts.tokens(world.account.id))) == 1

        in_a_world(open_store, scenario)
