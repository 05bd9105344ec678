"""The protocol's document says what the code does: its examples are read, and its words are the code's."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from muster.balancer.lease import Outcome
from muster.broker import messages
from muster.broker.frames import FrameReader

TEXT = (Path(__file__).parents[3] / "docs" / "broker-protocol.md").read_text()
EXAMPLES: list[dict[str, Any]] = [
    json.loads(line.replace("{…}", "{}")) for line in TEXT.splitlines() if line.startswith('{"type":')
]


def of(kind: str) -> list[dict[str, Any]]:
    found = [each for each in EXAMPLES if each["type"] == kind]
    assert found, f"no example of {kind}"
    return found


def test_what_a_client_says_is_read() -> None:
    for hello in of("hello"):
        assert messages.read_hello(hello).key.service == "digits"
    for hold in of("hold"):
        (held,) = messages.read_hold(hold)
        assert (held.seconds, held.endpoint.concurrency, held.ask.features) == (1.5, None, {"steps": 30})
        assert held.limit == 8
    for ask in of("ask"):
        said = messages.read_ask(ask, 100.0)
        assert (said.wait_seconds, said.ask.answer_by, said.ask.tenant) == (10, 112.5, "ann")
    for report in of("report"):
        assert messages.read_report(report).outcome is Outcome.OK
    assert [messages.read_heard(each) for each in of("heard")] == [(7, 3)]
    assert [messages.read_id(each) for kind in ("start", "cancel") for each in of(kind)] == [7, 7]
    assert [messages.read_beat(each) for each in of("heartbeat") if "held" in each] == [{3, 7}]


def test_what_a_broker_says_is_read() -> None:
    for welcome in of("welcome"):
        assert messages.read_welcome(welcome).ready_seconds == 0.8
    first, later = (messages.read_grant(grant) for grant in of("grant"))
    assert first.endpoint is not None
    assert (first.endpoint.id, first.is_told, first.limit) == (first.replica, True, None)
    assert (later.endpoint, later.limit) == (None, 8)
    for refuse in of("refuse"):
        assert messages.read_refuse(refuse, "x")[0] == 7
    assert [messages.read_pulse(each) for each in of("heartbeat") if "time" in each] == [81237.0]
    assert {messages.read_bye(each).reason for each in of("bye")} == {"standby"}
    assert of("queue")
    assert of("evicted")


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_is_told_of(outcome: Outcome) -> None:
    assert f"| `{outcome.value}` |" in TEXT


def test_every_reason_that_the_code_gives_is_told_of() -> None:
    source = Path(messages.__file__).parent
    code = "".join(path.read_text() for path in source.glob("*.py"))
    reasons = set(re.findall(r'Bye\(\s*"(\w+)"', code)) | set(re.findall(r'BadFrame\([^()]*"(\w+)"\)', code))
    assert {"standby", "moved", "never_starts"} <= reasons
    assert not [each for each in reasons if f"`{each}`" not in TEXT]
    assert not [each for _, each in messages.REASONS if f"`{each}`" not in TEXT]


def test_the_frame_that_is_shown_is_one() -> None:
    match = re.search(r"^((?:[0-9a-f]{2} ){4}) (\{.*\})$", TEXT, re.MULTILINE)
    assert match is not None
    data = bytes.fromhex(match[1]) + match[2].encode()
    assert struct.unpack(">I", data[:4])[0] == len(match[2])
    assert FrameReader().feed(data) == [{"type": "start", "id": 7}]
