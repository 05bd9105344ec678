"""Tokens and the account that exists from the first start on."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.api.auth import ensure_admin, hash_token, new_token
from muster.model.account import Account, Role
from tests.compat.world import MEMBER, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as opened:  # not furnished: the first start
        yield opened


def by_token(world: World, token: str) -> Account | None:
    return world.read(lambda tx: tx.accounts.by_token(hash_token(token), world.clock.now()))


def test_tokens_are_long_and_differ() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch(r"mst_[0-9A-Za-z]{40}", token) for token in tokens)


def test_only_the_hash_of_a_token_is_kept(world: World, tmp_path: Path) -> None:
    token = new_token()
    world.run(ensure_admin(world.store, world.clock, token))
    assert hash_token(token) == hashlib.sha256(token.encode()).hexdigest()
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("muster.db*"))
    assert hash_token(token).encode() in stored
    assert token.encode() not in stored
    assert token[:8].encode() in stored, "by which a person recognises it"


def test_the_first_start_makes_the_admin_and_later_ones_change_nothing(world: World) -> None:
    first = world.run(ensure_admin(world.store, world.clock, "mst_first"))
    again = world.run(ensure_admin(world.store, world.clock, "mst_first"))
    assert first == again == by_token(world, "mst_first")
    assert (first.name, first.role) == ("admin", Role.ADMIN)
    assert world.read(lambda tx: len(tx.accounts.all())) == 1


def test_another_admin_token_is_added_beside_the_first(world: World) -> None:
    first = world.run(ensure_admin(world.store, world.clock, "mst_first"))
    world.run(ensure_admin(world.store, world.clock, "mst_second"))
    assert by_token(world, "mst_first") == by_token(world, "mst_second") == first
    assert by_token(world, MEMBER) is None
