"""Following an API that is only asked: what is published, at what cost, and while it misbehaves."""

import asyncio
import datetime
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from muster.errors import CursorExpired, FeedRefused
from muster.model.deployment import PortProtocol
from muster.model.endpoint import ServiceKey
from muster.model.event import Cursor
from muster.model.feed import ChangeBatch, Listing
from muster.model.ids import DeploymentId
from muster.testing.scripted_world import CONTAINER, CONTAINER_LIST, DEPLOYMENT_LIST, EVENT_LIST
from tests.unit.discovery.poll_ground import Ground, outcome


@pytest.fixture
def ground() -> Iterator[Ground]:
    ground = Ground()
    yield ground
    ground.close()


class Altered(httpx.AsyncBaseTransport):
    """Changes the rows of a list on their way."""

    def __init__(
        self,
        below: httpx.AsyncBaseTransport,
        alter: Callable[[list[dict[str, Any]]], None],
        path: str = CONTAINER_LIST,
    ) -> None:
        self._below = below
        self._alter = alter
        self._path = path

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._below.handle_async_request(request)
        if request.url.path != self._path:
            return response
        wire = json.loads(await response.aread())
        if wire["data"]:
            self._alter(wire["data"]["list"])
        return httpx.Response(200, json=wire, request=request)


def test_who_runs_and_answers_is_published_and_who_does_not_answer_is_withheld(ground: Ground) -> None:
    asr = ground.world.add_deployment("asr")
    (ready,) = ground.world.run(asr)
    (deaf,) = ground.world.run(asr, is_ready=False)
    ground.world.create(asr)
    ground.watch()
    ground.advance(2)
    assert ground.names(asr) == [ready]
    assert ground.withheld(asr) == {deaf: "not_ready"}
    endpoint = ground.view[DeploymentId(asr)].endpoints[ServiceKey("home", asr)][0]
    assert (endpoint.url, endpoint.gpu_name, endpoint.data_center) == (ground.world.url(ready), "RTX 4090", "lab-a")
    assert ground.names(asr, 6008) == []


def test_a_container_is_published_as_soon_as_it_answers_without_waiting_for_a_poll(ground: Ground) -> None:
    asr = ground.world.add_deployment("asr")
    (uuid,) = ground.world.run(asr, is_ready=False)
    ground.watch()
    ground.advance(1.5)
    polls = ground.calls(CONTAINER_LIST)
    ground.world.set_ready(uuid)
    ground.advance(2)
    assert ground.names(asr) == [uuid]
    assert ground.calls(CONTAINER_LIST) == polls + 1, "who was told of a change asked for it, nobody else did"


def test_a_whole_account_costs_one_list_per_interval(ground: Ground) -> None:
    for number in range(40):
        ground.world.run(ground.world.add_deployment(f"service-{number}"), 2)
    ground.watch()
    ground.advance(20)
    ground.world.calls.clear()
    ground.advance(300)
    assert 55 <= ground.calls(CONTAINER_LIST) <= 66
    assert ground.calls(DEPLOYMENT_LIST) <= 11
    assert ground.calls(EVENT_LIST) == 0
    assert ground.feed.api_calls >= ground.calls()


@pytest.mark.parametrize("word", ["refuses_account_wide", "ignores_account_wide"])
def test_an_api_that_insists_on_a_deployment_is_asked_for_events_and_for_lists_when_those_move(
    ground: Ground, word: str
) -> None:
    setattr(ground.world, word, True)
    ground.world.tells_readiness = True  # no probe tells what events should
    asr, tts = ground.world.add_deployment("asr"), ground.world.add_deployment("tts")
    first = ground.world.run(asr, 2)
    second = ground.world.run(tts)
    ground.watch()
    ground.advance(25)
    assert (ground.names(asr), ground.names(tts)) == (sorted(first), second)
    ground.world.calls.clear()
    ground.advance(120)
    assert 44 <= ground.calls(EVENT_LIST) <= 54, "two deployments, once per interval each"
    assert ground.calls(CONTAINER_LIST) <= 10, "each half a minute"
    ground.world.stop(first[0])
    ground.advance(6)
    assert ground.names(asr) == [first[1]]
    ground.world.holds_events = True
    ground.world.stop(first[1])
    ground.advance(36)
    assert ground.names(asr) == [], "without any event the list is read each half a minute"


def test_events_that_come_late_are_found_by_their_number(ground: Ground) -> None:
    ground.world.refuses_account_wide = ground.world.tells_readiness = True
    asr = ground.world.add_deployment("asr")
    (uuid, *_) = ground.world.run(asr, 2)
    ground.watch()
    ground.advance(12)
    ground.world.holds_events = True
    ground.world.stop(uuid)
    ground.world.holds_events = False
    ground.world.run(asr, 12)  # sixty newer events: the held ones will be on no first page
    ground.advance(6)
    ground.world.release_events()
    ground.world.calls.clear()
    ground.advance(6)
    assert ground.calls(CONTAINER_LIST) > 0
    assert ground.names(asr) == ground.world.serving(asr)


def test_a_trouble_at_the_first_call_is_not_taken_for_an_api_that_insists(ground: Ground) -> None:
    ground.world.run(ground.world.add_deployment("asr"))
    ground.world.troubles.order("business", path=CONTAINER_LIST)
    ground.watch()
    ground.advance(20)
    ground.world.calls.clear()
    ground.advance(60)
    assert ground.calls(EVENT_LIST) == 0
    assert ground.calls(CONTAINER_LIST) > 5


def test_an_api_that_begins_to_insist_is_asked_for_each_deployment_from_then_on(ground: Ground) -> None:
    asr = ground.world.add_deployment("asr")
    uuids = sorted(ground.world.run(asr, 2))
    ground.watch()
    ground.advance(10)
    ground.world.refuses_account_wide = True
    ground.world.stop(uuids[0])
    ground.advance(30)
    assert ground.names(asr) == uuids[1:]
    assert ground.calls(EVENT_LIST) > 0


@pytest.mark.parametrize("is_told", [False, True])
def test_an_api_that_was_only_in_trouble_is_asked_for_the_whole_account_again(ground: Ground, is_told: bool) -> None:
    def spoil(rows: list[dict[str, Any]]) -> None:
        for row in rows if not is_told else []:
            del row["running_num"]

    asr = ground.world.add_deployment("asr")
    uuids = ground.world.run(asr)
    ground.new_feed(transport=Altered(ground.transport, spoil, DEPLOYMENT_LIST))
    ground.world.ignores_account_wide = True
    ground.watch()
    ground.advance(60)
    assert ground.calls(EVENT_LIST) > 5
    assert ground.names(asr) == uuids
    ground.world.ignores_account_wide = False
    ground.advance(600)
    ground.world.calls.clear()
    ground.advance(60)
    assert ground.calls(EVENT_LIST) == 0
    assert ground.names(asr) == uuids


def test_a_list_that_an_api_denies_having_is_a_failure_and_no_end(ground: Ground) -> None:
    asr = ground.world.add_deployment("asr")
    uuids = sorted(ground.world.run(asr, 2))
    ground.watch()
    ground.advance(10)
    ground.world.troubles.order("unknown", 12)
    ground.advance(100)
    assert ground.names(asr) == uuids
    assert ground.errors
    ground.advance(400)
    assert ground.do(ground.feed.services()).services


@pytest.mark.parametrize("kind", ["shifted", "swapped", "duplicated", "repeated"])
def test_rows_that_move_while_pages_are_read_cost_no_container_its_place(ground: Ground, kind: str) -> None:
    ground.world.page_cap = 7
    asr = ground.world.add_deployment("asr")
    uuids = sorted(ground.world.run(asr, 40))
    ground.watch()
    ground.advance(5)
    assert ground.names(asr) == uuids
    ground.world.troubles.chance(0.5, (kind,))
    for _ in range(60):
        ground.advance(2)
        assert ground.names(asr) == uuids
    ground.world.troubles.clear()
    for uuid in uuids[:15]:
        ground.world.stop(uuid)
    ground.advance(70)
    assert ground.names(asr) == uuids[15:]


@pytest.mark.parametrize("kind", ["shifted", "swapped", "duplicated"])
def test_a_list_that_does_not_add_up_is_read_again(ground: Ground, kind: str) -> None:
    ground.world.page_cap = 7
    asr = ground.world.add_deployment("asr")
    uuids = sorted(ground.world.run(asr, 40))
    ground.world.troubles.order(kind, 6, path=CONTAINER_LIST)
    listing = ground.do(ground.feed.services())
    assert [each.id for each in listing.services[0].endpoints[ServiceKey("home", asr)]] == uuids


@pytest.mark.parametrize(
    ("befalls", "is_read"), [("well error", True), ("well error error", False), ("error", False), ("well auth", False)]
)
def test_a_later_page_that_fails_is_asked_for_once_more(ground: Ground, befalls: str, is_read: bool) -> None:
    ground.world.page_cap = 7
    ground.world.run(ground.world.add_deployment("asr"), 40)
    for kind in befalls.split():
        ground.world.troubles.order(kind, path=CONTAINER_LIST)
    assert isinstance(ground.do(outcome(ground.feed.services())), Listing) is is_read


def test_a_container_that_ended_leaves_a_list_of_many_pages_with_the_next_poll(ground: Ground) -> None:
    ground.world.page_cap = 7
    asr = ground.world.add_deployment("asr")
    uuids = sorted(ground.world.run(asr, 40))
    ground.watch()
    ground.advance(5)
    ground.world.stop(uuids.pop(20))
    ground.advance(6)
    assert ground.names(asr) == uuids


def test_a_row_that_is_garbage_is_passed_over_and_named_once(ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
    asr = ground.world.add_deployment("asr")
    (uuid,) = ground.world.run(asr)

    def spoil(rows: list[dict[str, Any]]) -> None:
        rows += [{"status": "running", "info": None}, {"uuid": 7, "status": "running"}]

    ground.new_feed(transport=Altered(ground.transport, spoil))
    ground.watch()
    ground.advance(30)
    assert ground.names(asr) == [uuid]
    warnings = [record for record in caplog.records if "passed over" in record.message]
    assert len(warnings) == 1


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "http://u:p@10.0.0.1/", "gopher://x:70", "no port", "x:99999", "tcp://x", "http://[::1"],
)
def test_an_address_that_nobody_should_call_takes_away_only_its_own_port(ground: Ground, address: str) -> None:
    asr = ground.world.add_deployment("asr")
    (uuid,) = ground.world.run(asr, ports=(6006, 6008))

    def spoil(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["info"]["service_6008_port_url"] = address

    ground.new_feed(transport=Altered(ground.transport, spoil))
    ground.watch()
    ground.advance(10)
    assert ground.names(asr) == [uuid]
    assert ground.names(asr, 6008) == []


def test_an_address_that_is_not_known_yet_is_waited_for(ground: Ground) -> None:
    asr = ground.world.add_deployment("asr")
    (uuid,) = ground.world.run(asr)
    is_known = False

    def spoil(rows: list[dict[str, Any]]) -> None:
        for row in rows if not is_known else []:
            row["info"] = {"service_6006_port_url": ""}

    ground.new_feed(transport=Altered(ground.transport, spoil))
    ground.watch()
    ground.advance(10)
    assert ground.withheld(asr) == {uuid: "not_ready"}
    is_known = True
    ground.advance(7)
    assert ground.names(asr) == [uuid]


def test_an_api_that_says_who_is_ready_is_believed_and_no_address_is_probed(ground: Ground) -> None:
    ground.world.tells_readiness = True
    asr = ground.world.add_deployment("asr")
    (ready,) = ground.world.run(asr)
    (deaf,) = ground.world.run(asr, is_ready=False)
    ground.watch()
    ground.advance(10)
    assert ground.names(asr) == [ready]
    assert ground.withheld(asr) == {deaf: "not_ready"}
    assert ground.calls(CONTAINER) == 0
    ground.world.set_ready(deaf)
    ground.advance(6)
    assert ground.names(asr) == sorted([ready, deaf])


def test_a_container_that_is_used_again_replaces_its_former_self(ground: Ground) -> None:
    asr = ground.world.add_deployment("asr")
    (uuid,) = ground.world.run(asr)
    ground.watch()
    ground.advance(3)
    ground.world.stop(uuid)
    new = ground.world.reuse(uuid)
    ground.advance(8)
    assert ground.names(asr) == [new]


def test_a_deployment_that_is_created_anew_under_its_name_takes_the_name_and_leaves_an_empty_set(
    ground: Ground,
) -> None:
    old = ground.world.add_deployment("asr")
    ground.world.run(old, 2)
    ground.watch()
    ground.advance(3)
    assert ground.alias(old, "asr") == old
    new = ground.world.recreate(old)
    uuids = ground.world.run(new)
    ground.advance(8)
    assert ground.names(old) == []
    assert ground.names(new) == uuids
    assert ground.alias(new, "asr") == ground.alias(old, "asr") == new


def test_a_name_stands_for_its_oldest_living_deployment(ground: Ground) -> None:
    first, second = ground.world.add_deployment("asr"), ground.world.add_deployment("asr")
    ground.world.run(first)
    ground.world.run(second)
    ground.watch()
    ground.advance(3)
    assert ground.alias(second, "asr") == first
    ground.world.stop_deployment(first)
    ground.advance(8)
    assert ground.alias(second, "asr") == second
    ground.world.stop_deployment(second)
    ground.advance(8)
    assert ground.alias(second, "asr") is None


def test_only_the_deployments_asked_for_are_followed_also_those_that_come_later(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asr, other = ground.world.add_deployment("asr"), ground.world.add_deployment("other")
    uuids = ground.world.run(asr)
    ground.world.run(other)
    ground.new_feed([asr, "later"])
    ground.watch()
    ground.advance(70)
    assert ground.view.keys() == {asr}
    assert ground.names(asr) == uuids
    assert [record.message for record in caplog.records if "does not exist" in record.message] == [
        "deployment 'later' does not exist; it is followed when it appears"
    ]
    assert ground.do(ground.feed.service(DeploymentId(other))) is None
    gone = ground.do(ground.feed.service(DeploymentId("0123456789")))
    assert gone is not None
    assert set(gone.endpoints.values()) == {()}
    later = ground.world.add_deployment("later")
    new = ground.world.run(later)
    ground.advance(8)
    assert ground.names(later) == new


def test_raw_addresses_are_published_as_such(ground: Ground) -> None:
    asr = ground.world.add_deployment("asr", protocol="tcp")
    ground.world.tells_readiness = True
    ground.world.run(asr)
    ground.watch()
    ground.advance(3)
    (endpoint,) = ground.view[DeploymentId(asr)].endpoints[ServiceKey("home", asr, 6008)]
    assert (endpoint.url, endpoint.protocol) == ("tcp://api.test:80", PortProtocol.TCP)


@pytest.mark.parametrize("kind", ["error", "html", "business", "stall", "drop"])
def test_an_api_that_fails_costs_nothing_that_was_known_and_is_asked_seldom(ground: Ground, kind: str) -> None:
    asr = ground.world.add_deployment("asr")
    uuids = sorted(ground.world.run(asr, 2))
    ground.watch()
    ground.advance(12)
    ground.world.calls.clear()
    ground.world.troubles.order(kind, 1000)
    ground.advance(300)
    assert ground.names(asr) == uuids
    assert ground.calls() <= 14
    assert len(ground.errors) > 100, "who asks in between is told at once"
    ground.world.troubles.clear()
    ground.world.stop(uuids[0])
    ground.advance(75)
    assert ground.names(asr) == uuids[1:]


def test_one_lost_answer_is_made_good_before_anybody_is_told(ground: Ground) -> None:
    ground.world.run(ground.world.add_deployment("asr"))
    ground.watch()
    ground.advance(12)
    ground.world.troubles.order("error")
    ground.advance(20)
    assert ground.errors == []


def test_what_a_probe_finds_while_the_api_fails_is_told_when_somebody_can_ask_more(ground: Ground) -> None:
    asr = ground.world.add_deployment("asr")
    uuids = sorted(ground.world.run(asr, 60, is_ready=False))
    ground.watch()
    ground.advance(30)
    ground.world.troubles.order("error")
    ground.world.calls.clear()
    while not ground.calls():
        ground.advance(0.05)
    for uuid in uuids:
        ground.world.set_ready(uuid)
    ground.advance(15)
    assert ground.names(asr) == uuids
    assert ground.errors == []


@pytest.mark.parametrize("kind", ["auth", "not_entitled"])
def test_an_api_that_refuses_is_asked_once_a_minute(ground: Ground, kind: str) -> None:
    ground.world.troubles.order(kind, 1000)
    ground.watch()
    ground.advance(300)
    assert ground.calls() <= 6
    assert {type(error) for error in ground.errors} == {FeedRefused}
    assert "t0ken" not in "".join(str(error) for error in ground.errors)


def test_nobody_is_taken_back_by_probes_while_the_api_is_away(ground: Ground) -> None:
    asr = ground.world.add_deployment("asr")
    uuids = sorted(ground.world.run(asr, 2))
    ground.watch()
    ground.advance(12)
    ground.world.is_down = True
    ground.world.set_ready(uuids[0], False)
    ground.advance(100)
    assert ground.names(asr) == uuids
    assert ground.probes.hold
    ground.world.is_down = False
    ground.advance(90)
    assert ground.names(asr) == uuids[1:]
    assert not ground.probes.hold


@pytest.mark.parametrize("refuses", [False, True])
def test_the_apis_clock_may_say_what_it_likes(ground: Ground, refuses: bool) -> None:
    ground.world.refuses_account_wide = refuses
    asr = ground.world.add_deployment("asr")
    ground.watch()
    for hours in (-100, 5000, 0, -3):
        ground.world.clock_skew = datetime.timedelta(hours=hours)
        (old, *_) = ground.world.run(asr, 2)
        ground.advance(8)
        assert ground.names(asr) == ground.world.serving(asr)
        ground.world.stop(old)
        ground.advance(8)
        assert ground.names(asr) == ground.world.serving(asr)


def test_many_who_ask_at_once_share_a_reading_that_began_after_they_asked(ground: Ground) -> None:
    uuids = [ground.world.add_deployment(f"service-{number}") for number in range(50)]
    for uuid in uuids:
        ground.world.run(uuid)
    first = ground.do(ground.feed.services())
    assert len(first.services) == 50
    ground.world.calls.clear()

    async def ask_twice() -> int:
        early = asyncio.gather(*(ground.feed.service(DeploymentId(uuid)) for uuid in uuids))
        await asyncio.sleep(0)
        new = ground.world.run(uuids[0], is_ready=False)[0]
        late = await ground.feed.service(DeploymentId(uuids[0]))
        await early
        assert late is not None
        return sum(each.id == new for each in late.withheld[ServiceKey("home", uuids[0])])

    assert ground.do(ask_twice()) == 1
    assert ground.calls() <= 6


def test_what_a_watcher_meets_first_is_probed_before_it_is_told(ground: Ground) -> None:
    asr = ground.world.add_deployment("asr")
    uuids = sorted(ground.world.run(asr, 60))
    listing = ground.do(ground.feed.services())
    assert [each.id for each in listing.services[0].endpoints[ServiceKey("home", asr)]] == uuids


def test_a_replica_that_is_too_busy_to_answer_survives_the_restart_of_its_watcher(ground: Ground) -> None:
    asr = ground.world.add_deployment("asr")
    (busy,) = ground.world.run(asr)
    ground.world.let_answer(busy, stalls=300.0)
    ground.watch()
    ground.advance(10)
    assert ground.names(asr) == [busy]
    (new,) = ground.world.run(asr)
    ground.world.let_answer(new, stalls=300.0)
    ground.advance(60)
    assert ground.names(asr) == [busy], "one that was met later has to answer first"


def test_a_watcher_that_reaches_no_address_at_its_start_publishes_nothing(ground: Ground) -> None:
    asr = ground.world.add_deployment("asr")
    uuids = sorted(ground.world.run(asr, 3))
    ground.world.is_cut_off = True
    ground.watch()
    ground.advance(120)
    assert ground.view == {}
    assert "our network" in str(ground.errors[-1])
    assert ground.calls() < 30
    ground.world.is_cut_off = False
    ground.advance(70)
    assert ground.names(asr) == uuids


def test_probes_that_nobody_runs_are_noticed(ground: Ground) -> None:
    ground.world.run(ground.world.add_deployment("asr"))
    ground._tasks[0].cancel()
    assert "could be probed" in str(ground.do(outcome(ground.feed.services())))
    del ground._tasks[0]


def test_a_cursor_of_another_life_has_expired(ground: Ground) -> None:
    async def first() -> ChangeBatch:
        return await anext(ground.feed.changes(Cursor(7)))

    assert isinstance(ground.do(outcome(first())), CursorExpired)


def test_nothing_at_all_is_a_listing_too(ground: Ground) -> None:
    assert ground.do(ground.feed.services()).services == []
