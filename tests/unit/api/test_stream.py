"""The event stream in virtual time: what it says while nothing happens, and when its reader is too slow."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from muster.api.auth import ADMIN as ADMIN_NAME
from muster.api.stream import QUIET_SECONDS, event_lines
from muster.model.event import Cursor
from muster.testing.clock import VirtualLoop
from tests.compat.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    World.furnish(tmp_path)
    with World(tmp_path, runner=asyncio.Runner(loop_factory=VirtualLoop)) as opened:
        yield opened


def stream(world: World, cursor: int) -> AsyncIterator[bytes]:
    account = world.read(lambda tx: tx.accounts.by_name(ADMIN_NAME))
    assert account is not None
    return event_lines(world.app.state.context, account, Cursor(cursor), deployment_id=None, follow=True)


def test_silence_is_an_empty_line_from_time_to_time(world: World) -> None:
    lines = stream(world, 0)

    async def scenario() -> tuple[list[bytes], float]:
        begin = asyncio.get_running_loop().time()
        return [await anext(lines) for _ in range(3)], asyncio.get_running_loop().time() - begin

    assert world.run(scenario()) == ([b"\n"] * 3, 3 * QUIET_SECONDS)


def test_a_commit_between_looking_and_waiting_is_not_missed(world: World) -> None:
    uuid = world.create()
    lines = stream(world, 0)

    async def scenario() -> tuple[bytes, float]:
        begin = asyncio.get_running_loop().time()
        reading = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)  # it has taken its ticket and looks
        await world.store.write(lambda tx: world.place_in(tx, uuid))
        return await reading, asyncio.get_running_loop().time() - begin

    line, waited = world.run(scenario())
    assert json.loads(line)["status"] == "creating"
    assert waited < QUIET_SECONDS


def test_a_reader_that_fell_behind_the_log_is_told_so(world: World) -> None:
    container = world.place(world.create())
    lines = stream(world, 0)

    async def read() -> bytes:
        return await anext(lines)

    event = json.loads(world.run(read()))
    world.up(container)
    world.write(lambda tx: tx.events.prune(Cursor(event["id"] + 2)))
    assert json.loads(world.run(read()))["error"]["code"] == "CursorExpired"
    with pytest.raises(StopAsyncIteration):
        world.run(read())
