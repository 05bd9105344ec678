"""What it means what Docker says: one object, its card, its stop order and what is known of its end."""

import datetime
from typing import Any

import pytest

from muster.engine.docker.folder import Card, Cause, Stopping
from muster.engine.docker.observe import NEVER_STARTED, observation, parse_time, was_started
from muster.engine.port import Observation, Phase, Ref, StopOrder
from muster.model.container import Reason
from muster.model.ids import ContainerId, MachineId

REF = Ref(MachineId("m"), ContainerId("c"))
NEVER, BEGUN, ENDED = "0001-01-01T00:00:00Z", "2026-01-02T03:04:05.123456789Z", "2026-01-02T03:04:07.5Z"
BEGUN_AT = datetime.datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=datetime.UTC)
STOPPING = Stopping(StopOrder(), BEGUN_AT.timestamp())


def said(status: str, begun: str = BEGUN, ended: str = ENDED, code: int = 0, **state: Any) -> dict[str, Any]:
    """Return what Docker's inspection says of an object, as far as anybody here reads it."""
    return {
        "State": {
            "Status": status, "StartedAt": begun, "FinishedAt": ended, "ExitCode": code,
            "OOMKilled": False, "Error": "", **state,
        },
        "Config": {"Labels": {"muster.image-digest": "sha256:d"}},
        "NetworkSettings": {"Networks": {"n": {"IPAddress": "10.0.0.2" if status == "running" else ""}}},
    }  # fmt: skip


def card(**notes: Any) -> Card:
    return Card(REF.machine_id, REF.container_id, 1, 1, **notes)


def seen(info: dict[str, Any], cause: Cause | None = None, **notes: Any) -> Observation:
    return observation(REF, info, card(**notes), None, cause or Cause())


def test_one_that_was_not_started_is_created() -> None:
    assert seen(said("created", NEVER, NEVER)).phase is Phase.CREATED
    assert seen(said("created", NEVER, NEVER)).image_digest == "sha256:d"


def test_one_that_changed_hands_is_created_until_it_is_started_again() -> None:
    assert seen(said("exited", code=3), started_before=BEGUN).phase is Phase.CREATED
    again = seen(said("exited", "2026-01-02T04:00:00Z", "2026-01-02T04:00:01Z", code=3), started_before=BEGUN)
    assert (again.phase, again.exit_code) == (Phase.EXITED, 3)
    assert was_started(said("exited"), None), "without a card it is what it was made for"


def test_one_that_was_stopped_before_it_was_started_has_ended() -> None:
    found = observation(REF, said("created", NEVER, NEVER), card(), STOPPING, Cause())
    assert (found.phase, found.started_at, found.finished_at, found.exit_code) == (Phase.EXITED, None, BEGUN_AT, None)
    assert found.message == NEVER_STARTED


@pytest.mark.parametrize("status", ["running", "paused", "restarting"])
def test_one_that_runs_runs_whatever_is_wanted_of_it(status: str) -> None:
    for stopping in (None, STOPPING):
        found = observation(REF, said(status, ended=NEVER), card(), stopping, Cause())
        assert (found.phase, found.started_at, found.finished_at) == (Phase.RUNNING, BEGUN_AT, None)


@pytest.mark.parametrize("status", ["exited", "dead"])
def test_one_that_ended_of_itself_is_told_by_its_exit_code(status: str) -> None:
    found = seen(said(status, code=3))
    assert (found.phase, found.exit_code, found.reason, found.message) == (Phase.EXITED, 3, None, "")


def test_one_that_ended_before_it_began_took_no_time() -> None:
    found = seen(said("exited", ended="2026-01-02T03:04:05.1Z"))
    assert found.started_at == found.finished_at == BEGUN_AT, "Docker takes the two times at different places"


@pytest.mark.parametrize(
    ("cause", "code", "oom", "reason"),
    [
        (Cause(had_oom=True), 1, False, Reason.OOM_KILLED),
        (Cause(), 137, True, Reason.OOM_KILLED),
        (Cause(had_oom=True), 0, True, None),
        (Cause(killed_by=15), 0, False, Reason.KILLED_EXTERNALLY),
        (Cause(killed_by=9, had_oom=True), 137, True, Reason.KILLED_EXTERNALLY),
        (Cause(killed_by=15, engine_ended=True), 143, False, Reason.ENGINE_RESTARTED),
        (Cause(killed_by=15, engine_ended=True, host_ended=True), 143, False, Reason.MACHINE_LOST),
        (Cause(was_started_twice=True), 254, False, Reason.ERROR),
        (Cause(was_started_twice=True, killed_by=15), 254, False, Reason.KILLED_EXTERNALLY),
        (Cause(), 254, False, None),
    ],
)
def test_what_came_from_outside_goes_before_what_may_have_been_inside(
    cause: Cause, code: int, oom: bool, reason: Reason | None
) -> None:
    found = seen(said("exited", code=code, OOMKilled=oom), cause)
    assert found.reason is reason
    assert bool(found.message) == (reason is not None)


def test_how_one_ended_that_was_started_twice_is_not_known() -> None:
    found = seen(said("exited", code=254), Cause(was_started_twice=True), starting_at=BEGUN_AT.timestamp() - 60)
    assert found.exit_code is None
    assert found.started_at == BEGUN_AT - datetime.timedelta(minutes=1), "the first time"


def test_an_end_that_was_ordered_needs_no_reason() -> None:
    info = said("exited", code=137, OOMKilled=True)
    found = observation(REF, info, card(), STOPPING, Cause(killed_by=9))
    assert (found.exit_code, found.reason, found.message) == (137, None, "")


def test_addresses_are_known_while_there_are_any() -> None:
    assert seen(said("running", ended=NEVER)).addresses[6006].host == "10.0.0.2"
    assert not seen(said("exited")).addresses


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2026-01-02T03:04:05Z", 0), ("2026-01-02T03:04:05.1Z", 100_000), ("2026-01-02T03:04:05.123456Z", 123_456),
        ("2026-01-02T03:04:05.123456999Z", 123_456), ("2026-01-02T03:04:05.000000001Z", 0),
    ],
)  # fmt: skip
def test_times_have_up_to_nine_digits(text: str, microsecond: int) -> None:
    assert parse_time(text) == BEGUN_AT.replace(microsecond=microsecond)
