"""Probing addresses of others: who is ready, who stays so, and how gently it is done."""

import asyncio
import itertools
import random
from collections.abc import Iterator

import httpx
import pytest

from muster.discovery.probe import Probes, Target
from muster.testing.clock import FakeClock, VirtualLoop


class Street(httpx.AsyncBaseTransport):
    """Addresses that answer as they are told: a status, ``"refused"`` or ``"silent"``."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.answers: dict[str, int | str] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.asked: list[tuple[float, str]] = []
        self.takes_seconds = 0.0
        self.under_way = self.most_under_way = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = str(request.url).rstrip("/")
        self.asked.append((self.loop.time(), url))
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            answer = self.answers.get(url, 200)
            await asyncio.sleep(10_000 if answer == "silent" else self.takes_seconds)
        finally:
            self.under_way -= 1
        if isinstance(answer, str):
            raise httpx.ConnectError(answer, request=request)
        return httpx.Response(answer, headers=self.headers.get(url), request=request)


class Ground:
    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.street = Street(self.loop)
        self.probes = Probes(FakeClock(self.loop), self.street, rng=random.Random(1))
        self._task = self.loop.create_task(self.probes.run())

    def follow(self, *names: str, is_start: bool = False) -> None:
        self.probes.follow([target(name) for name in names], is_start=is_start)

    def answer(self, name: str, answer: int | str, **headers: str) -> None:
        self.street.answers[target(name).url] = answer
        self.street.headers[target(name).url] = {key.replace("_", "-"): value for key, value in headers.items()}

    def advance(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def ready(self, *names: str) -> list[str]:
        return [name for name in names if self.probes.is_ready(target(name))]

    def looks(self, name: str) -> list[float]:
        return [at for at, url in self.street.asked if url == target(name).url]

    def close(self) -> None:
        self._task.cancel()
        self.loop.run_until_complete(asyncio.wait([self._task]))
        self.loop.close()


def target(name: str) -> Target:
    return Target(name, 6006, f"https://{name}.test:8443")


@pytest.fixture
def ground() -> Iterator[Ground]:
    ground = Ground()
    yield ground
    ground.close()


@pytest.mark.parametrize("status", [200, 204, 301, 302, 401, 404, 405, 418, 500, 501])
def test_any_answer_of_somebody_is_ready_at_once(ground: Ground, status: int) -> None:
    ground.answer("a", status)
    ground.follow("a")
    ground.advance(0.1)
    assert ground.ready("a") == ["a"]


@pytest.mark.parametrize("answer", [502, 503, 504, "refused", "silent"])
def test_what_a_gateway_says_for_nobody_is_not_ready_and_is_asked_again_until_somebody_answers(
    ground: Ground, answer: int | str
) -> None:
    ground.answer("a", answer)
    ground.follow("a", "b")
    ground.advance(60)
    assert ground.ready("a", "b") == ["b"]
    ground.answer("a", 200)
    ground.advance(12)
    assert ground.ready("a", "b") == ["a", "b"]


def test_it_is_looked_at_each_second_then_each_five_and_each_ten_once_it_is_ready(ground: Ground) -> None:
    ground.answer("a", 502)
    ground.follow("a")
    ground.advance(60)
    looks = ground.looks("a")
    rests = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert looks[0] == 0
    assert 0.9 <= rests[0] <= 1.1
    assert all(4.5 <= rest <= 5.5 for rest in rests[5:])
    ground.answer("a", 200)
    ground.advance(6)
    before = len(ground.looks("a"))
    ground.advance(100)
    assert 9 <= len(ground.looks("a")) - before <= 11


@pytest.mark.parametrize("answer", [502, 503, 504, "refused"])
def test_three_failures_in_a_row_take_an_address_back_and_two_do_not(ground: Ground, answer: int | str) -> None:
    ground.follow("a", "b")
    ground.advance(1)
    ground.answer("a", answer)
    ground.advance(19)
    assert ground.ready("a") == ["a"]
    ground.answer("a", 200)
    ground.advance(11)
    ground.answer("a", answer)
    ground.advance(18)
    assert ground.ready("a") == ["a"]
    ground.advance(16)
    assert ground.ready("a", "b") == ["b"]
    ground.answer("a", 200)
    ground.advance(6)
    assert ground.ready("a", "b") == ["a", "b"]


def test_silence_is_no_failure_for_ten_minutes(ground: Ground) -> None:
    ground.follow("a", "b")
    ground.advance(1)
    ground.answer("a", "silent")
    ground.advance(590)
    assert ground.ready("a") == ["a"]
    ground.advance(80)
    assert ground.ready("a", "b") == ["b"]


def test_one_answer_within_ten_minutes_lets_an_address_be_silent_again(ground: Ground) -> None:
    ground.follow("a")
    ground.advance(1)
    for _ in range(4):
        ground.answer("a", "silent")
        ground.advance(500)
        ground.answer("a", 200)
        ground.advance(25)
    assert ground.ready("a") == ["a"]


@pytest.mark.parametrize("header", [{"retry_after": "1"}, {"x_muster_refused": "over_capacity"}])
def test_who_asks_to_come_again_is_busy_and_not_dead(ground: Ground, header: dict[str, str]) -> None:
    ground.follow("a")
    ground.advance(1)
    ground.answer("a", 503, **header)
    ground.advance(1000)
    assert ground.ready("a") == ["a"]
    ground.follow("a", "new")
    ground.answer("new", 503, **header)
    ground.advance(10)
    assert ground.ready("new") == [], "who has never answered has to answer first"


@pytest.mark.parametrize("reason", ["ended", "not_started", "unreachable"])
def test_an_ingress_that_says_nobody_is_there_is_believed(ground: Ground, reason: str) -> None:
    ground.follow("a")
    ground.advance(1)
    ground.answer("a", 503, x_muster_refused=reason)
    ground.advance(40)
    assert ground.ready("a") == []


def test_nobody_is_taken_back_when_nobody_can_be_reached(ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
    ground.follow("a", "b", "c")
    ground.advance(1)
    for name in ("a", "b", "c"):
        ground.answer(name, "refused")
    ground.advance(200)
    assert ground.ready("a", "b", "c") == ["a", "b", "c"]
    assert len([record for record in caplog.records if "our network" in record.message]) == 1
    ground.answer("a", 200)
    ground.advance(12)
    assert ground.ready("a", "b", "c") == ["a"], "with one that can be reached it is not our network"


def test_a_gateway_that_answers_shows_that_it_is_not_our_network(ground: Ground) -> None:
    ground.follow("a", "b")
    ground.advance(1)
    ground.answer("a", "refused")
    ground.answer("b", 502)
    ground.advance(40)
    assert ground.ready("a", "b") == []


def test_a_single_address_that_cannot_be_reached_is_taken_back(ground: Ground) -> None:
    ground.follow("a")
    ground.advance(1)
    ground.answer("a", "refused")
    ground.advance(40)
    assert ground.ready("a") == []


def test_nobody_is_taken_back_while_that_is_on_hold_but_who_answers_comes_in(ground: Ground) -> None:
    ground.answer("b", 502)
    ground.follow("a", "b")
    ground.advance(1)
    ground.probes.hold = True
    ground.answer("a", 502)
    ground.answer("b", 200)
    ground.advance(100)
    assert ground.ready("a", "b") == ["a", "b"]
    ground.probes.hold = False
    ground.advance(12)
    assert ground.ready("a", "b") == ["b"]


@pytest.mark.parametrize(("answer", "is_adopted"), [("silent", True), (502, False), ("refused", False)])
def test_of_those_met_at_the_start_silent_ones_count_as_ready(
    ground: Ground, answer: int | str, is_adopted: bool
) -> None:
    ground.answer("a", answer)
    ground.follow("a", "b", is_start=True)
    assert ground.loop.run_until_complete(ground.probes.first_looks())
    assert (ground.ready("a") == ["a"]) is is_adopted


@pytest.mark.parametrize("answer", ["silent", 502, "refused"])
def test_who_is_silent_or_fails_once_is_ready_only_if_somebody_published_it(ground: Ground, answer: int | str) -> None:
    ground.answer("a", answer)
    ground.follow("a", "b")
    assert ground.loop.run_until_complete(ground.probes.first_looks())
    assert ground.ready("a", "b") == ["b"]
    news = ground.probes.news
    ground.probes.adopt([target("a"), target("never followed")])
    assert news.is_set(), "whoever publishes hears of it"
    assert ground.ready("a", "b", "never followed") == ["a", "b"]
    ground.advance(100)
    assert ("a" in ground.ready("a", "b")) is (answer == "silent"), "being adopted excuses nobody from failing"


def test_who_has_failed_for_us_is_not_adopted(ground: Ground) -> None:
    ground.answer("a", 502)
    ground.follow("a", "b")
    ground.advance(100)
    ground.probes.adopt([target("a")])
    assert ground.ready("a", "b") == ["b"]


def test_there_are_few_looks_at_once_and_few_a_second_at_one_host(ground: Ground) -> None:
    ground.street.takes_seconds = 1.0
    ground.follow(*(f"host-{number}" for number in range(200)))
    ground.advance(30)
    assert ground.street.most_under_way == 32
    ground.street.asked.clear()
    ground.street.takes_seconds = 0.0
    ground.probes.follow([Target(f"c{number}", 6006, f"http://gateway.test/c/{number}") for number in range(800)])
    ground.advance(10)
    assert 450 <= len(ground.street.asked) <= 501


def test_an_address_that_is_not_followed_any_more_is_left_alone_and_may_come_back(ground: Ground) -> None:
    ground.follow("a", "b")
    ground.advance(20)
    ground.follow("b")
    before = len(ground.looks("a"))
    ground.advance(60)
    assert len(ground.looks("a")) == before
    assert ground.ready("a") == []
    ground.follow("a", "b")
    ground.advance(1)
    assert ground.ready("a", "b") == ["a", "b"]


def test_news_come_with_every_change_of_readiness(ground: Ground) -> None:
    ground.answer("a", 502)
    ground.follow("a")
    ground.advance(1)
    news = ground.probes.news
    ground.advance(20)
    assert not news.is_set()
    ground.answer("a", 200)
    ground.advance(6)
    assert news.is_set()
