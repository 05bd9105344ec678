"""What can be wrong with a database is said in one line; what it holds stays private."""

import asyncio
import dataclasses
import sqlite3
import stat
import traceback
from pathlib import Path

import pytest

from muster.errors import Conflict, StoreUnavailable
from muster.model.account import Role
from muster.model.ids import DeploymentId, ImageUuid
from muster.store import connect
from muster.store.port import Changes, Transaction
from muster.testing.conformance.store import START, a_spec
from muster.testing.database import empty_database
from muster.testing.executor import InlineExecutor


def refusal(url: str) -> str:
    with pytest.raises(StoreUnavailable) as refused:
        connect(url)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "muster.db"
    path.write_text("this is a shopping list\n" * 100)
    assert "not a database" in refusal(f"sqlite:///{path}")
    assert path.read_text().startswith("this is a shopping list")


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    url = empty_database(tmp_path)
    path = tmp_path / "muster.db"
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    assert "use another home" in refusal(url)


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "muster.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE accounts (login TEXT)")
    connection.close()
    assert "already exists" in refusal(f"sqlite:///{path}")


def test_a_folder_that_nobody_may_write_is_refused() -> None:
    assert "may be written" in refusal("sqlite:////proc/muster.db")


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert "unable to open" in refusal(f"sqlite:///{tmp_path / 'nowhere' / 'muster.db'}")


@pytest.mark.parametrize("url", ["postgresql://host/db", "muster.db", "sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_anything_but_a_sqlite_file_is_refused(url: str) -> None:
    assert "sqlite:///path" in refusal(url)


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    folder = tmp_path / "50% of #1? + 中文"
    folder.mkdir()
    store = connect(empty_database(folder))
    assert asyncio.run(store.read(lambda tx: tx.accounts.all())) == []
    asyncio.run(store.aclose())


def permissions(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    async def scenario() -> set[int]:
        store = connect(f"sqlite:///{tmp_path / 'muster.db'}")
        await store.write(lambda tx: tx.accounts.add("ann", Role.MEMBER, START))
        modes = permissions(tmp_path)
        await store.aclose()
        return modes

    assert asyncio.run(scenario()) == {0o600}


def test_an_error_never_shows_what_was_to_be_written(tmp_path: Path) -> None:
    async def scenario() -> str:
        store = connect(empty_database(tmp_path))
        account = await store.write(lambda tx: tx.accounts.add("ann", Role.MEMBER, START))
        spec = a_spec(env={"PASSWORD": "correct-horse"})
        await store.write(lambda tx: tx.deployments.add(account.id, DeploymentId("d1"), spec, START))
        with pytest.raises(Conflict) as refused:
            await store.write(lambda tx: tx.deployments.add(account.id, DeploymentId("d1"), spec, START))
        await store.aclose()
        return "".join(traceback.format_exception(refused.value))

    shown = asyncio.run(scenario())
    assert "UNIQUE constraint failed" in shown
    assert "correct-horse" not in shown


def test_with_an_inline_executor_a_transaction_takes_place_at_the_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = connect(empty_database(tmp_path), executor=InlineExecutor())
        heard: list[Changes] = []
        store.on_commit(heard.append)
        done: list[str] = []

        def add(name: str) -> None:
            def work(tx: Transaction) -> None:
                tx.accounts.add(name, Role.MEMBER, START)
                done.append(name)

            loop.create_task(store.write(work)).add_done_callback(lambda task: task.result())

        loop = asyncio.get_running_loop()
        add("ann")
        add("bob")
        await asyncio.sleep(0)
        assert done == ["ann", "bob"]
        assert await store.read(lambda tx: [account.name for account in tx.accounts.all()]) == ["ann", "bob"]
        assert len(heard) == 2
        with pytest.raises(Conflict):
            await store.write(lambda tx: tx.accounts.add("ann", Role.MEMBER, START))
        await store.aclose()

    asyncio.run(scenario())


def test_a_private_image_is_its_accounts_alone(tmp_path: Path) -> None:
    url = empty_database(tmp_path)

    async def scenario() -> None:
        store = connect(url)
        ann, bob = [
            await store.write(lambda tx, name=name: tx.accounts.add(name, Role.MEMBER, START))  # type: ignore[misc]
            for name in ("ann", "bob")
        ]
        base = await store.write(lambda tx: tx.images.put_base(ImageUuid("image-1"), "digits", "digits:1", START))
        # nothing adds private images yet: the row is made as it will look
        with sqlite3.connect(tmp_path / "muster.db") as connection:
            connection.execute("UPDATE images SET account_id = ?", (ann.id,))
        connection.close()
        mine = dataclasses.replace(base, account_id=ann.id)
        assert await store.read(lambda tx: tx.images.get(ann.id, base.uuid)) == mine
        assert await store.read(lambda tx: tx.images.get(bob.id, base.uuid)) is None
        with pytest.raises(Conflict):
            await store.write(lambda tx: tx.images.put_base(base.uuid, "digits", "digits:2", START))
        await store.aclose()

    asyncio.run(scenario())
