"""The writer of the audit log."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.api.audit import note
from muster.api.auth import ensure_admin, hash_token
from muster.model.account import Caller, Role
from muster.model.audit import AuditEntry
from muster.store.port import Transaction, Window
from tests.compat.world import ADMIN, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as opened:
        yield opened


@pytest.fixture
def admin(world: World) -> Caller:
    return Caller.of(world.run(ensure_admin(world.store, world.clock, ADMIN)), hash_token(ADMIN))


def entries(world: World) -> list[AuditEntry]:
    return list(world.read(lambda tx: tx.audit.find(None, Window())).items)


def test_an_entry_says_who_by_which_token_what_and_when(world: World, admin: Caller) -> None:
    now = world.clock.now()
    world.write(lambda tx: note(tx, admin, "deployment.scale", "3e9f90e84d", "to 4", now))
    (entry,) = entries(world)
    assert (entry.account_id, entry.actor, entry.token_id) == (admin.id, "admin", hash_token(ADMIN)[:10])
    assert (entry.action, entry.target, entry.detail) == ("deployment.scale", "3e9f90e84d", "to 4")
    assert entry.created_at == now


def test_an_entry_about_somebody_elses_thing_is_theirs(world: World, admin: Caller) -> None:
    def work(tx: Transaction) -> None:
        bob = tx.accounts.add("bob", Role.MEMBER, world.clock.now())
        note(tx, admin, "token.revoke", "bob", "", world.clock.now(), owner=bob.id)

    world.write(work)
    (entry,) = entries(world)
    assert entry.account_id != admin.id
    assert entry.actor == "admin"


def test_a_text_cannot_break_lines_drive_a_terminal_or_fill_the_log(world: World, admin: Caller) -> None:
    world.write(lambda tx: note(tx, admin, "file.write", "a\n\x1b[2Jb", "x" * 100_000, world.clock.now()))
    (entry,) = entries(world)
    assert entry.target == "a��[2Jb"
    assert len(entry.detail) == 500
    assert entry.detail.endswith("…")


def test_a_change_that_fails_leaves_no_entry(world: World, admin: Caller) -> None:
    def work(tx: Transaction) -> None:
        note(tx, admin, "account.create", "bob", "", world.clock.now())
        raise RuntimeError("the change failed")

    with pytest.raises(RuntimeError, match="the change failed"):
        world.write(work)
    assert entries(world) == []
