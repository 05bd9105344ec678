"""Credentials on their way through the store: whole at the end, nowhere readable in between."""

import asyncio
import datetime
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.errors import Conflict, SetupError
from muster.model.account import Role
from muster.model.image import Credential
from muster.store import connect
from muster.store.keyring import Keyring
from muster.store.port import Store, Transaction
from muster.testing.database import empty_database
from muster.testing.executor import InlineExecutor
from muster.vault import Vault

NOW = datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC)
CANARY = "pa55w0rd-canary"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = connect(empty_database(tmp_path), executor=InlineExecutor())
    yield opened
    asyncio.run(opened.aclose())


def test_an_order_gets_what_its_accounts_registry_asks_and_nobody_elses(store: Store, tmp_path: Path) -> None:
    keyring = Keyring(Vault(tmp_path / "secret.key"))

    async def scenario() -> None:
        ann = await store.write(lambda tx: tx.accounts.add("ann", Role.MEMBER, NOW))
        ben = await store.write(lambda tx: tx.accounts.add("ben", Role.MEMBER, NOW))
        lab, hub = Credential("ann", CANARY), Credential("ann-hub", "other")
        await store.write(lambda tx: keyring.put(tx, ann.id, "lab:5000", lab, NOW))
        await store.write(lambda tx: keyring.put(tx, ann.id, "docker.io", hub, NOW))

        def look(tx: Transaction) -> None:
            assert keyring.credential_for(tx, ann.id, "lab:5000/team/asr:2") == lab
            assert keyring.credential_for(tx, ann.id, "nginx") == hub
            assert keyring.credential_for(tx, ann.id, "lab/team/asr") == hub
            assert keyring.credential_for(tx, ann.id, "lab:5001/asr") is None
            assert keyring.credential_for(tx, ann.id, "no reference") is None
            assert keyring.credential_for(tx, ben.id, "lab:5000/team/asr:2") is None

        await store.read(look)

    asyncio.run(scenario())


def test_a_password_is_nowhere_in_the_database_in_logs_or_in_texts(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    keyring = Keyring(Vault(tmp_path / "secret.key"))
    credential = Credential("canary-user", CANARY)

    async def scenario() -> None:
        ann = await store.write(lambda tx: tx.accounts.add("ann", Role.MEMBER, NOW))
        await store.write(lambda tx: keyring.put(tx, ann.id, "lab:5000", credential, NOW))
        (tmp_path / "secret.key").unlink()
        with pytest.raises(SetupError) as refused:
            await store.read(
                lambda tx: Keyring(Vault(tmp_path / "secret.key")).credential_for(tx, ann.id, "lab:5000/x")
            )
        assert CANARY not in str(refused.value)

    asyncio.run(scenario())
    assert CANARY not in repr(credential)
    assert CANARY not in caplog.text
    for path in tmp_path.iterdir():
        assert CANARY.encode() not in path.read_bytes(), path
        assert b"canary-user" not in path.read_bytes(), path


def test_without_a_vault_nothing_is_kept(store: Store) -> None:
    async def scenario() -> None:
        ann = await store.write(lambda tx: tx.accounts.add("ann", Role.MEMBER, NOW))
        with pytest.raises(Conflict, match="keeps no secrets"):
            await store.write(lambda tx: Keyring(None).put(tx, ann.id, "lab:5000", Credential("u", "p"), NOW))
        assert await store.read(lambda tx: Keyring(None).credential_for(tx, ann.id, "lab:5000/x")) is None

    asyncio.run(scenario())
