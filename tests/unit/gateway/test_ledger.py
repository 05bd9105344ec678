"""What keys have used: exact over processes, which may die at any moment."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from muster.gateway.keys import Key
from muster.gateway.ledger import SLOTS, Ledger, Slots
from tests.unit.gateway.ground import NOW

WORKERS = 3


def a_key(**fields: float) -> Key:
    return Key("web", "0" * 64, slot=7, **fields)  # type: ignore[arg-type]


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger.create(WORKERS)
    yield ledger
    ledger.close()


def other(ledger: Ledger, column: int) -> Ledger:
    """Return another process's view."""
    return Ledger(os.dup(ledger.descriptor), WORKERS, column)


def entered(ledger: Ledger, key: Key, times: int, now: float = NOW) -> int:
    return sum(ledger.enter(key, now) is None for _ in range(times))


def test_a_burst_passes_and_then_the_rate(ledger: Ledger) -> None:
    key = a_key(requests_per_second=10.0, burst=5)
    assert entered(ledger, key, 20) == 5
    assert entered(ledger, key, 20, NOW + 0.1) == 1
    assert entered(ledger, key, 20, NOW + 0.35) == 2
    assert entered(ledger, key, 20, NOW + 100) == 5


def test_over_the_rate_it_is_told_when_to_come_again_and_may_then(ledger: Ledger) -> None:
    key = a_key(requests_per_second=0.5, burst=1)
    assert ledger.enter(key, NOW) is None
    refused = ledger.enter(key, NOW + 0.5)
    assert refused is not None
    assert (refused.status, refused.reason, refused.key) == (429, "rate_limited", "web")
    assert refused.retry_after_seconds == pytest.approx(1.5)
    assert ledger.enter(key, NOW + 0.5 + (refused.retry_after_seconds or 0)) is None


def test_who_is_refused_is_not_counted(ledger: Ledger) -> None:
    key = a_key(requests_per_second=1.0, burst=1)
    assert entered(ledger, key, 1000) == 1
    assert ledger.enter(key, NOW + 1) is None


def test_a_process_that_read_the_clock_before_others_used_the_burst_gets_nothing_more(ledger: Ledger) -> None:
    key = a_key(requests_per_second=1.0, burst=3)
    assert entered(ledger, key, 9, NOW + 0.2) == 3
    assert entered(ledger, key, 9, NOW) == 0


def test_requests_under_way_are_counted_over_all_processes(ledger: Ledger) -> None:
    key = a_key(concurrency=2)
    second = other(ledger, 1)
    assert ledger.enter(key, NOW) is None
    assert second.enter(key, NOW) is None
    refused = ledger.enter(key, NOW)
    assert refused is not None
    assert (refused.status, refused.reason, refused.retry_after_seconds) == (429, "concurrency", 1.0)
    second.leave(key)
    assert ledger.enter(key, NOW) is None
    second.close()


def test_who_has_too_many_under_way_does_not_pay_with_rate(ledger: Ledger) -> None:
    key = a_key(requests_per_second=1.0, burst=2, concurrency=1)
    assert ledger.enter(key, NOW) is None
    assert entered(ledger, key, 10) == 0
    ledger.leave(key)
    assert ledger.enter(key, NOW) is None


def test_a_limit_that_is_raised_forgets_what_was_used_under_the_old_one(ledger: Ledger) -> None:
    assert entered(ledger, a_key(requests_per_second=0.01, burst=50), 100) == 50
    assert ledger.enter(a_key(requests_per_second=100.0, burst=1), NOW + 0.01) is None


def test_what_a_dead_process_had_under_way_is_given_back(ledger: Ledger) -> None:
    key = a_key(concurrency=2)
    dead = other(ledger, 1)
    assert entered(dead, key, 2) == 2
    assert ledger.enter(key, NOW) is not None
    ledger.forget(1, [7])
    assert entered(ledger, key, 3) == 2
    dead.close()


def test_a_column_never_falls_below_nothing(ledger: Ledger) -> None:
    ledger.forget(0, [7])
    ledger.leave(a_key(concurrency=1))
    assert ledger.under_way(7) == 0


def test_a_key_keeps_its_slot_over_reloads_and_gives_it_up_when_nothing_is_under_way(ledger: Ledger) -> None:
    slots = Slots(ledger)
    first = slots.assign(["a", "b"])
    assert slots.assign(["b", "c"])["b"] == first["b"]
    key = Key("b", "1" * 64, slot=first["b"], concurrency=1)
    assert ledger.enter(key, NOW) is None
    for _ in range(3):
        assert slots.assign(["c"])["c"] not in first.values()
    assert first["a"] not in slots.used
    assert first["b"] in slots.used
    ledger.leave(key)
    slots.assign(["c"])
    assert list(slots.used) == [slots.assign(["c"])["c"]]


def test_a_slot_is_given_away_only_when_all_processes_know(ledger: Ledger) -> None:
    slots = Slots(ledger)
    first = slots.assign(["a"])["a"]
    assert slots.assign(["b"])["b"] != first
    assert slots.assign(["b", "c"])["c"] == first


def test_there_are_slots_for_all_keys_twice_over(ledger: Ledger) -> None:
    slots = Slots(ledger)
    slots.assign([f"a{at}" for at in range(10_000)])
    found = slots.assign([f"b{at}" for at in range(10_000)])
    assert len(set(found.values())) == 10_000
    assert max(found.values()) < SLOTS


_ENTER = """
import os, sys, time
from muster.gateway.keys import Key
from muster.gateway.ledger import Ledger
ledger = Ledger(int(sys.argv[1]), 3, int(sys.argv[2]))
key = Key("web", "0" * 64, slot=7, requests_per_second=100.0, burst=500, concurrency=400)
sys.stdin.readline()
count = sum(ledger.enter(key, 1000.0) is None for _ in range(2000))
print(count, flush=True)
if sys.argv[3] == "leave":
    for _ in range(count):
        ledger.leave(key)
print("done", flush=True)
sys.stdin.readline()
"""


def started(ledger: Ledger, column: int, then: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _ENTER, str(ledger.descriptor), str(column), then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[ledger.descriptor],
    )


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.slow
def test_processes_that_ask_at_once_get_exactly_the_limit_together(ledger: Ledger) -> None:
    processes = [started(ledger, column, "stay") for column in range(WORKERS)]
    try:
        for each in processes:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        counts = [int(line(each)) for each in processes]
        assert sum(counts) == 400
        assert ledger.under_way(7) == 400
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait()
        ledger.forget(0, [7])
        assert ledger.under_way(7) == 400 - counts[0]
    finally:
        for each in processes:
            each.kill()
            each.wait()
            for stream in (each.stdin, each.stdout):
                if stream is not None:
                    stream.close()


def _churn(descriptor: int, column: int, end: Connection) -> None:
    ledger = Ledger(descriptor, WORKERS, column)
    key = Key("web", "0" * 64, slot=7, concurrency=2)
    most = 0
    for _ in range(20_000):
        if ledger.enter(key, NOW) is None:
            most = max(most, ledger.under_way(7))
            ledger.leave(key)
    end.send(most)


@pytest.mark.slow
def test_nothing_is_lost_or_left_where_processes_come_and_go(ledger: Ledger) -> None:
    context = multiprocessing.get_context("fork")
    ends, processes = [], []
    for column in range(WORKERS):
        ours, theirs = context.Pipe()
        process = context.Process(target=_churn, args=(ledger.descriptor, column, theirs))
        process.start()
        ends.append(ours)
        processes.append(process)
    most = [each.recv() for each in ends]
    for each in processes:
        each.join()
    assert 1 <= max(most) <= 2
    assert ledger.under_way(7) == 0
