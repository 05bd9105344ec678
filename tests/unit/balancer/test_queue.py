"""Who is next: priority, fair shares, size, age, and whoever has been overtaken enough."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.balancer.ask import Ask
from muster.balancer.queue import RESERVE, WaitingQueue, rank_of
from muster.balancer.ticket import Ticket

_ages = itertools.count()


def ticket(
    cost: float = 1.0, *, priority: int = 0, tenant: str = "", deadline: float = 1e9, asked_at: float | None = None
) -> Ticket:
    asked_at = next(_ages) if asked_at is None else asked_at
    return Ticket(
        asked_at,
        asked_at,
        deadline,
        frozenset(),
        lambda: None,
        Ask(priority=priority, tenant=tenant),
        cost=cost,
        rank=rank_of(cost),
    )


def queue_of(*tickets: Ticket) -> WaitingQueue:
    queue = WaitingQueue()
    for each in tickets:
        queue.push(each)
    return queue


def served(queue: WaitingQueue, count: int = 1_000_000) -> list[Ticket]:
    """Serve whoever is next, one at a time."""
    order: list[Ticket] = []
    while queue and len(order) < count:
        chosen = next(iter(queue.in_order()))
        queue.take(chosen)
        order.append(chosen)
    return order


class TestOrder:
    def test_requests_of_one_size_are_first_come_first_served_and_a_full_queue_says_so(self) -> None:
        queue = WaitingQueue(capacity=2)
        first, second = ticket(), ticket()
        fills = []
        for each in (first, second):
            queue.push(each)
            fills.append(queue.is_full)
        assert fills == [False, True]
        assert served(queue) == [first, second]

    def test_the_smaller_goes_first_and_nearly_as_small_is_as_old(self) -> None:
        large, old, small, young = ticket(10.0), ticket(1.0), ticket(0.1), ticket(0.98)
        assert served(queue_of(large, old, small, young)) == [small, old, young, large]

    def test_priority_goes_before_size_and_age(self) -> None:
        low, high = ticket(0.1), ticket(10.0, priority=1)
        assert served(queue_of(low, high)) == [high, low]

    def test_the_expired_can_be_dropped_and_what_is_not_there_is_no_error(self) -> None:
        soon, late = ticket(deadline=5), ticket(deadline=9)
        queue = queue_of(late, soon)
        queue.drop_expired(5)
        queue.discard(soon)
        assert list(queue) == [late]

    def test_whoever_is_passed_over_stays_and_the_next_is_offered(self) -> None:
        first, second, third = ticket(1), ticket(2), ticket(4)
        queue = queue_of(first, second, third)
        offered = []
        for each in queue.in_order():
            offered.append(each)
            if each is second:
                queue.take(each)
        assert offered == [first, second, third]
        assert list(queue) == [first, third]


class TestFairShares:
    def test_tenants_take_turns_however_many_requests_one_of_them_has(self) -> None:
        queue = queue_of(*[ticket(tenant="many") for _ in range(100)], *[ticket(tenant="few") for _ in range(5)])
        first = Counter(each.ask.tenant for each in served(queue, 10))
        assert first["few"] in (4, 5)

    def test_shares_are_of_work_not_of_requests(self) -> None:
        queue = queue_of(*itertools.chain(*[(ticket(4.0, tenant="large"), ticket(1.0, tenant="small"))] * 1))
        for _ in range(60):
            queue.push(ticket(4.0, tenant="large"))
            queue.push(ticket(1.0, tenant="small"))
        work: Counter[str] = Counter()
        for each in served(queue, 50):
            work[each.ask.tenant] += int(each.cost)
        assert work["large"] == pytest.approx(work["small"], abs=8)

    def test_a_tenant_that_comes_back_has_no_credit_for_the_time_it_was_away(self) -> None:
        queue = queue_of(*[ticket(tenant="steady") for _ in range(300)])
        served(queue, 100)
        for _ in range(50):
            queue.push(ticket(tenant="back"))
        counts = Counter(each.ask.tenant for each in served(queue, 40))
        assert abs(counts["steady"] - counts["back"]) <= 4


class TestNobodyStarves:
    def test_a_large_request_is_served_when_what_overtook_it_has_paid_for_it(self) -> None:
        large = ticket(10.0)
        queue = queue_of(large, ticket(0.5))
        overtaken = 0.0
        for chosen in iter(lambda: served(queue, 1)[0], large):
            overtaken += chosen.cost
            queue.push(ticket(0.5))
        assert overtaken == pytest.approx(10.0 / RESERVE, abs=0.5)

    def test_so_is_one_of_low_priority(self) -> None:
        low = ticket(1.0, priority=-5)
        queue = queue_of(low, ticket())
        overtaken = 0
        while served(queue, 1)[0] is not low:
            overtaken += 1
            queue.push(ticket())
        assert overtaken == pytest.approx(1 / RESERVE, abs=1)

    def test_the_reserve_is_a_seventeenth_of_the_work_and_goes_to_the_oldest(self) -> None:
        rng = random.Random(1)
        queue = queue_of(*[ticket(20.0) for _ in range(200)])
        work: Counter[bool] = Counter()
        for _ in range(3000):
            queue.push(ticket(rng.uniform(0.5, 1.5)))
            chosen = served(queue, 1)[0]
            work[chosen.cost == 20.0] += int(chosen.cost * 1000)
        assert work[True] / work.total() == pytest.approx(RESERVE / (1 + RESERVE), rel=0.15)


class TestAhead:
    def test_ahead_is_what_goes_first_and_older_is_everything(self) -> None:
        queue = queue_of(ticket(1.0), ticket(8.0), ticket(2.0, priority=1))
        ahead, older = queue.ahead_of(ticket(4.0))
        assert (round(ahead, 6), round(older, 6)) == (3.0, 11.0)

    def test_of_other_tenants_only_their_fair_share_is_ahead(self) -> None:
        queue = queue_of(*[ticket(1.0, tenant="many") for _ in range(100)])
        assert queue.ahead_of(ticket(1.0, tenant="new"))[0] == pytest.approx(1.0)


@given(
    st.lists(
        st.tuples(st.floats(0.01, 100), st.integers(-1, 1), st.sampled_from("abc"), st.sampled_from("psd")), max_size=60
    )
)
def test_whatever_comes_and_goes_each_ticket_is_offered_once_and_the_books_balance(
    steps: list[tuple[float, int, str, str]],
) -> None:
    queue = WaitingQueue()
    inside: set[Ticket] = set()
    for cost, priority, tenant, action in steps:
        if action == "p" or not inside:
            new = ticket(cost, priority=priority, tenant=tenant)
            queue.push(new)
            inside.add(new)
        elif action == "s":
            inside -= set(served(queue, 1))
        else:
            gone = min(inside, key=lambda each: each.asked_at)
            queue.discard(gone)
            inside.discard(gone)
        offered = list(queue.in_order())
        assert len(offered) == len(set(offered)) == len(queue) == len(inside)
        assert set(offered) == inside
        everything = sum(each.cost for each in inside)
        ahead, older = queue.ahead_of(ticket(1e6, priority=-9))
        assert older == pytest.approx(everything)
        assert ahead <= everything + 1e-6
    served(queue)
    assert not queue
