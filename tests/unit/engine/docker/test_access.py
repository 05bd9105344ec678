"""Who may use what was fetched with a password."""

import asyncio
import json
from pathlib import Path

import pytest

from muster.engine.docker.access import Access
from muster.errors import EngineUnavailable
from muster.model.ids import AccountId

ANN, BEN = AccountId(1), AccountId(2)
NAME = "lab:5000/team/asr"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "private.json"


def test_what_nobody_restricted_is_everybodys(path: Path) -> None:
    access = Access(path)
    asyncio.run(access.allow(NAME, [ANN]))
    assert access.may_use(NAME, BEN)
    assert not path.exists()


def test_what_is_restricted_is_for_those_who_were_let_in_and_the_operator(path: Path) -> None:
    async def scenario() -> None:
        access = Access(path)
        await access.restrict(NAME)
        assert not access.may_use(NAME, ANN)
        await access.allow(NAME, [ANN])
        await access.restrict(NAME)
        for each in (access, Access(path)):
            assert each.may_use(NAME, ANN)
            assert not each.may_use(NAME, BEN)
            assert each.may_use(NAME, None)
            assert each.may_use("lab:5000/team/other", BEN)

    asyncio.run(scenario())


def test_all_who_are_let_in_at_once_are_noted(path: Path) -> None:
    async def scenario() -> None:
        access = Access(path)
        await access.restrict(NAME)
        async with asyncio.TaskGroup() as group:
            for account in range(20):
                group.create_task(access.allow(NAME, [AccountId(account)]))

    asyncio.run(scenario())
    assert json.loads(path.read_text()) == {NAME: list(range(20))}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("text", ["", "[]", '{"x": 3}', "{"])
def test_a_file_that_cannot_be_read_refuses_everything(tmp_path: Path, text: str) -> None:
    path = tmp_path / "private.json"
    path.write_text(text)
    with pytest.raises(EngineUnavailable, match=r"private\.json cannot be read"):
        Access(path).may_use(NAME, ANN)


def test_what_cannot_be_noted_is_not_taken_for_noted(tmp_path: Path) -> None:
    async def scenario() -> None:
        access = Access(tmp_path / "file" / "private.json")
        assert access.may_use(NAME, ANN)
        (tmp_path / "file").touch()
        for _ in range(2):
            with pytest.raises(OSError, match="file"):
                await access.restrict(NAME)

    asyncio.run(scenario())
