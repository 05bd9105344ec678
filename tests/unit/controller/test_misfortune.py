"""The loops against what goes on for long or comes back: crash loops, wrong clocks."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from muster.testing.harness import Harness, small_fleet


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path) as harness:
        yield harness


def test_replicas_that_crash_together_are_retried_ever_more_slowly_however_many_they_are(tmp_path: Path) -> None:
    wide = replace(small_fleet()[0], gpu_num=60, cpu_num=960)
    with Harness(tmp_path, machines=[wide]) as harness:
        uuid = harness.create(replica_num=60, cmd="sleep 1; exit 3")
        harness.advance(60)
        assert len(harness.containers(uuid)) <= 7 * 60


def test_a_crash_loop_is_slowed_also_while_the_clock_is_set_back(harness: Harness) -> None:
    uuid = harness.create(cmd="sleep 1; exit 3")
    harness.advance(0.2)
    harness.set_wall_clock(-600)
    harness.advance(120)
    assert 4 <= len(harness.containers(uuid)) <= 8


def test_a_crash_loop_waits_for_no_death_of_a_clock_that_was_ahead(harness: Harness) -> None:
    harness.set_wall_clock(86_400)
    uuid = harness.create(cmd="sleep 1; exit 3")
    harness.advance(10)
    harness.set_wall_clock(0)
    before = len(harness.containers(uuid))
    harness.advance(60)
    assert before + 3 <= len(harness.containers(uuid)) <= before + 8
