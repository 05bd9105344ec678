"""What the API says to a watcher elsewhere: who is ready, which names stand for whom, and what changed since."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.api.service_stream import change_lines, set_lines
from muster.api.stream import QUIET_SECONDS
from muster.model.account import Account
from muster.model.container import ContainerStatus, Reason, StopRequest
from muster.model.endpoint import ServiceKey
from muster.model.event import Cursor
from muster.registry.memory import MemoryRegistry
from muster.testing.clock import VirtualLoop
from muster.testing.conformance.registry import make_set
from tests.compat.test_extensions import ROOT, error, get
from tests.compat.world import ADMIN, MEMBER, World


def services(world: World, token: str = ADMIN) -> dict[str, Any]:
    return {each["deployment_uuid"]: each for each in get(world, "/services", token=token)["services"]}


def service(world: World, uuid: str, token: str = ADMIN) -> Any:
    return get(world, f"/services/{uuid}", token=token)["service"]


def ids(found: Any, port: int = 6006) -> list[str]:
    (of_port,) = (each for each in found["sets"] if each["port"] == port)
    return [each["id"] for each in of_port["endpoints"]]


def changes(world: World, query: str = "", *, token: str = ADMIN) -> list[Any]:
    response = world.send("GET", f"{ROOT}/services/changes?follow=false{query}", token=token)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_the_list_says_who_serves_and_of_the_others_why_not(world: World) -> None:
    uuid = world.create(replica_num=4)
    ready = world.up(world.place(uuid))
    starting = world.place(uuid, gpu=1)
    unready = world.advance(world.up(world.place(uuid, gpu=2)), ContainerStatus.RUNNING, is_ready=False)
    draining = world.up(world.place(uuid, gpu=3))
    world.advance(draining, ContainerStatus.RUNNING, stop=StopRequest(Reason.STOPPED_BY_USER, world.clock.now()))
    answer = get(world, "/services")
    assert (answer["source"], answer["account"], answer["ca_pem"]) == ("muster", "admin", None)
    (found,) = answer["services"]
    assert (found["deployment_uuid"], found["name"]) == (uuid, "asr")
    for of_port in found["sets"]:
        assert {each["id"]: each["reason"] for each in of_port["withheld"]} == {
            starting.uuid: "starting",
            unready.uuid: "not_ready",
            draining.uuid: "draining",
        }
    assert [(of_port["port"], [each["url"] for each in of_port["endpoints"]]) for of_port in found["sets"]] == [
        (6006, ["http://127.0.0.1:40001"]),
        (6008, ["http://127.0.0.1:40002"]),
    ]
    assert ids(found) == [ready.uuid]
    assert service(world, uuid) == found


def test_the_authority_is_told_once(world: World) -> None:
    world.ca_pem = "-----BEGIN CERTIFICATE-----"
    uuid = world.create()
    assert get(world, "/services")["ca_pem"] == get(world, f"/services/{uuid}")["ca_pem"] == world.ca_pem


def test_a_name_stands_for_the_oldest_live_deployment(world: World) -> None:
    first, second = world.create(), world.create()
    asked = [service(world, uuid)["aliases"] for uuid in (first, second)]
    world.ok("PUT", "/deployment/operate", {"deployment_uuid": first, "operate": "stop"})
    asked += [service(world, uuid)["aliases"] for uuid in (first, second)]
    world.ok("DELETE", "/deployment", {"deployment_uuid": second})
    asked += [service(world, uuid)["aliases"] for uuid in (first, second)]
    targets = [first, first, second, second, None, None]
    assert asked == [[{"name": "asr", "port": port, "target": target} for port in (6006, 6008)] for target in targets]


def test_a_deployment_that_ended_is_off_the_list_and_says_that_nobody_serves(world: World) -> None:
    uuid = world.create()
    container = world.up(world.place(uuid))
    assert get(world, f"/services/{uuid}")["is_live"]
    world.ok("DELETE", "/deployment", {"deployment_uuid": uuid})
    assert set(services(world)) == {uuid}, "its container runs"
    world.advance(container, ContainerStatus.SHUTTING_DOWN, ContainerStatus.SHUTDOWN, is_ready=False)
    assert services(world) == {}
    answer = get(world, f"/services/{uuid}")
    assert not answer["is_live"]
    assert [(each["endpoints"], each["withheld"]) for each in answer["service"]["sets"]] == [([], [])] * 2


def test_accounts_see_their_own_only(world: World) -> None:
    mine, theirs = world.create(), world.create(token=MEMBER)
    world.up(world.place(mine))
    world.up(world.place(theirs, gpu=1))
    for token, own, other, name in ((ADMIN, mine, theirs, "admin"), (MEMBER, theirs, mine, "member")):
        assert set(services(world, token)) == {own}
        assert get(world, "/services", token=token)["account"] == name
        assert ids(service(world, own, token))
        refusals = [get(world, f"/services/{uuid}", token=token, status=404) for uuid in (other, "0123456789")]
        assert [error(each)[0] for each in refusals] == ["RecordNotFoundError"] * 2
        assert [each["deployments"] for each in changes(world, "&after=0", token=token)] == [[own]]


def test_changes_go_on_from_a_cursor(world: World) -> None:
    uuid = world.create()
    container = world.place(uuid)
    cursor = get(world, "/services")["cursor"]
    assert changes(world, f"&after={cursor}") == changes(world) == []
    world.up(container)
    (line,) = changes(world, f"&after={cursor}")
    assert line == {"deployments": [uuid], "cursor": get(world, "/services")["cursor"]}
    assert line["cursor"] > cursor


@pytest.mark.parametrize("follow", ["false", "true"])
def test_a_cursor_that_is_gone_is_refused(world: World, follow: str) -> None:
    world.up(world.place(world.create()))
    world.write(lambda tx: tx.events.prune(Cursor(3)))
    for cursor in (1, 999):
        refusal = get(world, f"/services/changes?after={cursor}&follow={follow}", status=410)
        assert error(refusal)[0] == "CursorExpired"


@pytest.mark.parametrize("query", ["after=x", "after=-1", "follow=2"])
def test_a_wrong_query_is_named(shared: World, query: str) -> None:
    code, _, field = error(get(shared, f"/services/changes?{query}", status=422))
    assert (code, field) == ("RequestParameterIsWrong", query.partition("=")[0])


def test_a_set_is_told_to_its_account_only(world: World) -> None:
    world.run(world.registry.publish(ServiceKey("admin", "asr"), make_set("a")))
    path = f"{ROOT}/endpoints/watch?service=asr&follow=false"
    assert [each["id"] for each in world.send("GET", path).json()["endpoints"]] == ["a"]
    assert world.send("GET", path, token=MEMBER).text == ""
    assert world.send("GET", f"{path}&port=6008").text == ""


@pytest.fixture
def virtual(tmp_path: Path) -> Iterator[World]:
    World.furnish(tmp_path)
    with World(tmp_path, runner=asyncio.Runner(loop_factory=VirtualLoop)) as opened:
        yield opened


def account(world: World, name: str = "admin") -> Account:
    found = world.read(lambda tx: tx.accounts.by_name(name))
    assert found is not None
    return found


def stream_of_changes(world: World, name: str = "admin", cursor: int = 0) -> AsyncIterator[bytes]:
    return change_lines(world.app.state.context, account(world, name), Cursor(cursor), follow=True)


async def close(lines: AsyncIterator[bytes]) -> None:
    await lines.aclose()  # type: ignore[attr-defined]


def test_silence_is_an_empty_line_from_time_to_time(virtual: World) -> None:
    streams = (
        stream_of_changes(virtual),
        set_lines(virtual.app.state.context, ServiceKey("admin", "asr"), follow=True),
    )

    async def scenario(lines: AsyncIterator[bytes]) -> tuple[list[bytes], float]:
        begin = asyncio.get_running_loop().time()
        found = [await anext(lines) for _ in range(3)], asyncio.get_running_loop().time() - begin
        await close(lines)
        return found

    for lines in streams:
        found, seconds = virtual.run(scenario(lines))
        assert found == [b"\n"] * 3
        assert seconds == pytest.approx(3 * QUIET_SECONDS)


def test_what_happens_to_others_is_silence(virtual: World) -> None:
    mine, theirs = virtual.create(), virtual.create(token=MEMBER)
    lines = stream_of_changes(virtual, "member")

    async def scenario() -> list[bytes]:
        store = virtual.store
        found = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(1)
        await store.write(lambda tx: virtual.place_in(tx, mine))
        await asyncio.sleep(1)
        assert not found.done()
        await store.write(lambda tx: virtual.place_in(tx, theirs, gpu=1))
        told = [await found, await anext(lines)]
        await close(lines)
        return told

    told, silence = virtual.run(scenario())
    assert json.loads(told)["deployments"] == [theirs]
    assert silence == b"\n"


def test_a_deletion_without_an_event_is_told(virtual: World) -> None:
    uuid = virtual.create()
    lines = stream_of_changes(virtual)

    async def begin() -> "asyncio.Future[bytes]":
        found = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(1)
        return found

    async def end(found: "asyncio.Future[bytes]") -> bytes:
        told = await asyncio.wait_for(found, QUIET_SECONDS / 2)
        await close(lines)
        return told

    found = virtual.run(begin())
    virtual.ok("DELETE", "/deployment", {"deployment_uuid": uuid})
    assert json.loads(virtual.run(end(found)))["deployments"] == [uuid]


def test_a_reader_that_fell_behind_the_log_is_told_so(virtual: World) -> None:
    container = virtual.place(virtual.create())
    lines = stream_of_changes(virtual)

    async def read() -> bytes:
        return await anext(lines)

    line = json.loads(virtual.run(read()))
    virtual.up(container)
    virtual.write(lambda tx: tx.events.prune(Cursor(line["cursor"] + 2)))
    assert json.loads(virtual.run(read()))["error"]["code"] == "CursorExpired"
    with pytest.raises(StopAsyncIteration):
        virtual.run(read())


def test_a_set_is_followed_through_its_name(virtual: World) -> None:
    registry: MemoryRegistry = virtual.registry
    key = ServiceKey("admin", "0123456789")
    lines = set_lines(virtual.app.state.context, ServiceKey("admin", "asr"), follow=True)

    async def scenario() -> list[list[str]]:
        found = []
        for revision, names in ((1, "a"), (2, "ab"), (3, "")):
            await registry.publish(key, make_set(*names, revision=revision))
            await registry.link(ServiceKey("admin", "asr"), key)
            found.append([each["id"] for each in json.loads(await anext(lines))["endpoints"]])
        await close(lines)
        return found

    assert virtual.run(scenario()) == [["a"], ["a", "b"], []]
