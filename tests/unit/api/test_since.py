"""Beginnings in time as people write them."""

import datetime

import pytest

from muster.api.since import moment
from muster.errors import InvalidSpec

NOW = datetime.datetime(2026, 3, 2, 12, 0, tzinfo=datetime.UTC)
ZONE = datetime.timezone(datetime.timedelta(hours=8))


def read(text: str) -> str:
    return moment("since", text, now=NOW, zone=ZONE).isoformat()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("10m", "2026-03-02T11:50:00+00:00"),
        ("2h30m", "2026-03-02T09:30:00+00:00"),
        ("1.5h", "2026-03-02T10:30:00+00:00"),
        ("90s", "2026-03-02T11:58:30+00:00"),
        ("90", "2026-03-02T11:58:30+00:00"),
        ("0", "2026-03-02T12:00:00+00:00"),
        ("0.5s", "2026-03-02T11:59:59.500000+00:00"),
        ("1d", "2026-03-01T12:00:00+00:00"),
        ("1d2h3m4s", "2026-03-01T09:56:56+00:00"),
        ("999999999", "1994-06-24T10:13:21+00:00"),
        ("1700000000", "2023-11-14T22:13:20+00:00"),
        ("1700000000.25", "2023-11-14T22:13:20.250000+00:00"),
        ("2026-03-02T10:00:00+08:00", "2026-03-02T02:00:00+00:00"),
        ("2026-03-02T10:00:00Z", "2026-03-02T10:00:00+00:00"),
        ("2026-03-02T10:00:00.5Z", "2026-03-02T10:00:00.500000+00:00"),
        ("2026-03-02T10:00:00", "2026-03-02T02:00:00+00:00"),
        ("2026-03-02", "2026-03-01T16:00:00+00:00"),
    ],
)
def test_durations_are_before_now_and_times_without_a_zone_are_of_the_configured_one(text: str, meant: str) -> None:
    assert read(text) == meant


@pytest.mark.parametrize(
    "text",
    ["", "m", "yesterday", "-5m", "10 m", "30m2h", "10x", "1e3", "٣m", "99999999d", "9" * 400, "2026-13-01", "nan"],
)
def test_nonsense_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(InvalidSpec, match="since: must be a duration like 10m"):
        read(text)


def test_the_first_moments_of_time_have_no_zone_before_them() -> None:
    with pytest.raises(InvalidSpec):
        read("0001-01-01T00:00:00")
