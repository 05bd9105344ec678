"""What is decided about a request, from its head to the options that the balancer gets."""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.balancer.options import NO_OPTIONS
from muster.gateway.config import KeyTable, RouteTable
from muster.gateway.port import NeedsBody, Passage, Refused
from muster.gateway.reception import key_of, rule_of
from muster.http1.request_head import read_request
from tests.unit.gateway.ground import NOW, Desk, desk, head, run

SECRET = "mgw_web"
HASH = hashlib.sha256(SECRET.encode()).hexdigest()
KEY = f'[[key]]\nname = "web"\nsha256 = "{HASH}"\n'
ROUTE = '[[route]]\nservice = "digits"\n'


def at_desk(folder: Path, toml: str, test: Callable[[Desk], Awaitable[None]], *names: str, **flags: Any) -> None:
    async def main() -> None:
        async with desk(folder, toml, *names, **flags) as made:
            await test(made)

    run(main())


def asked(target: str = "/", **fields: Any) -> Any:
    return head(target, Authorization=f"Bearer {SECRET}", **fields)


def test_a_plain_request_says_nothing_to_the_balancer(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        passage = desk.lets_in(head("/x?y=%2e"))
        assert (passage.service, passage.target, passage.key) == ("digits", b"/x?y=%2e", "")
        assert passage.options is NO_OPTIONS
        assert passage.dropped == frozenset()
        passage.leave()

    at_desk(tmp_path, "", test, service=["digits"])


@pytest.mark.parametrize("name", ["X_Muster_Tenant", "X_Muster_Affinity", "X_Muster_Demands"])
def test_options_that_no_broker_takes_are_refused_and_do_not_pass_its_queue_by(tmp_path: Path, name: str) -> None:
    async def test(desk: Desk) -> None:
        value = ",".join(f"a{at}=1" for at in range(800))
        fields: dict[str, Any] = {name: value}
        refused = desk.refuses(head(**fields))
        assert (refused.status, refused.reason) == (400, "invalid")
        assert "4096" in refused.error
        desk.lets_in(head(X_Muster_Tenant="t" * 1000)).leave()

    at_desk(tmp_path, "", test, service=["digits"])


def test_without_a_key_nobody_learns_which_services_there_are(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        for target in ("/", "/nowhere", "/../x"):
            assert desk.refuses(head(target)).reason == "no_key"

    at_desk(tmp_path, KEY + ROUTE.replace("service", 'path = "/a"\nservice'), test)


def test_a_key_gives_tenant_and_priority_and_does_not_go_on(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        passage = desk.lets_in(asked())
        assert (passage.options.ask.tenant, passage.options.ask.priority) == ("team", 3)
        assert passage.dropped == {b"authorization"}
        assert passage.key == "web"
        lower = desk.lets_in(asked(X_Muster_Priority="-1", X_Muster_Tenant="team"))
        assert lower.options.ask.priority == -1

    at_desk(tmp_path, KEY + 'tenant = "team"\npriority = 3\n' + ROUTE, test)


def test_a_client_may_not_raise_its_priority_or_be_somebody_else(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        for fields in ({"X_Muster_Priority": "4"}, {"X_Muster_Tenant": "other"}):
            refused = desk.refuses(asked(**fields))
            assert (refused.status, refused.reason, refused.key, refused.service) == (
                403,
                "not_allowed",
                "web",
                "digits",
            )
        assert desk.lets_in(asked()).options.ask.tenant == "web"

    at_desk(tmp_path, KEY + "priority = 3\n" + ROUTE, test)


def test_strangers_do_not_overtake_those_with_a_key(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        assert desk.refuses(head(X_Muster_Priority="1")).reason == "not_allowed"
        assert desk.refuses(head(X_Muster_Tenant="web")).reason == "not_allowed"
        assert desk.lets_in(head()).options.ask.tenant == ""

    at_desk(tmp_path, "require_key = false\n" + KEY + ROUTE, test)


def test_a_key_is_for_the_services_that_it_names(tmp_path: Path) -> None:
    toml = KEY + 'services = ["digits"]\n' + '[[route]]\npath = "/a"\nservice = "asr"\n' + ROUTE

    async def test(desk: Desk) -> None:
        assert desk.lets_in(asked()).service == "digits"
        refused = desk.refuses(asked("/a"))
        assert (refused.status, refused.reason) == (403, "not_allowed")

    at_desk(tmp_path, toml, test)


def test_other_services_are_not_told_to_those_whose_key_is_not_for_them(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        assert "asr" not in desk.refuses(asked("/x/y")).error

    at_desk(tmp_path, KEY + 'services = ["digits"]\n', test, service=["digits", "asr"])


def test_headers_say_to_the_balancer_what_the_sdk_says(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        options = desk.lets_in(
            head(
                X_Muster_Deadline="5",
                X_Muster_Timeout="2",
                X_Muster_Features="pixels=4, steps=2",
                X_Muster_Demands="vram_mb=3",
                X_Muster_Affinity="s",
                X_Muster_Tenant="t",
                X_Muster_Priority="7",
                X_Muster_Idempotent="yes",
                X_Muster_Resends="1",
            )
        ).options
        ask = options.ask
        assert (ask.features, ask.demands, ask.affinity) == ({"pixels": 4.0, "steps": 2.0}, {"vram_mb": 3}, "s")
        assert (ask.tenant, ask.priority, ask.answer_by) == ("t", 7, NOW + 5)
        assert (options.timeout_seconds, options.is_idempotent, options.resends) == (2, True, 1)

    at_desk(tmp_path, ROUTE, test)


@pytest.mark.parametrize(
    ("fields", "reason", "error"),
    [
        ({"X_Muster_Deadline": "0"}, "deadline", "that has passed"),
        ({"X_Muster_Deadline": "-3"}, "deadline", "that has passed"),
        ({"X_Muster_Deadline": "soon"}, "invalid", "X-Muster-Deadline: 'soon' is wrong: write a number of seconds"),
        ({"X_Muster_Deadline": "nan"}, "invalid", "deadline"),
        ({"X_Muster_Priority": "1.5"}, "invalid", "X-Muster-Priority"),
        ({"X_Muster_Features": "a"}, "invalid", "X-Muster-Features"),
        ({"X_Muster_Hedge": "1"}, "invalid", "X-Muster-Hedge"),
        ({"X_Muster_Dedline": "1"}, "invalid", "x-muster-dedline: is no header of ours"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_by_its_name(
    tmp_path: Path, fields: dict[str, Any], reason: str, error: str
) -> None:
    async def test(desk: Desk) -> None:
        refused = desk.refuses(head(**fields))
        assert (refused.status, refused.reason) == (400, reason)
        assert error in refused.error

    at_desk(tmp_path, ROUTE, test)


def test_what_a_route_says_holds_where_the_request_says_nothing(tmp_path: Path) -> None:
    route = ROUTE + "timeout = 2\ndeadline = 9\npriority = 4\nidempotent = true\nmax_body_mb = 0.5\n"

    async def test(desk: Desk) -> None:
        passage = desk.lets_in(head())
        options = passage.options
        assert (options.timeout_seconds, options.is_idempotent) == (2, True)
        assert (options.ask.priority, options.ask.answer_by) == (4, NOW + 9)
        assert passage.most_body_bytes == 500_000
        said = desk.lets_in(head(X_Muster_Timeout="1", X_Muster_Deadline="30", X_Muster_Idempotent="0")).options
        assert (said.timeout_seconds, said.is_idempotent, said.ask.answer_by) == (1, False, NOW + 30)

    at_desk(tmp_path, route, test)


def test_a_key_bounds_the_deadline(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        assert desk.lets_in(asked()).options.ask.answer_by == NOW + 10
        assert desk.lets_in(asked(X_Muster_Deadline="60")).options.ask.answer_by == NOW + 10
        assert desk.lets_in(asked(X_Muster_Deadline="3")).options.ask.answer_by == NOW + 3

    at_desk(tmp_path, KEY + "deadline = 10\n" + ROUTE, test)


def test_limits_of_a_key_are_counted_once_and_given_back(tmp_path: Path) -> None:
    toml = KEY + "concurrency = 1\n" + '[[route]]\nmodel = "m"\nservice = "digits"\n'

    async def test(desk: Desk) -> None:
        chat = asked("/v1/chat", method="POST", body=9)
        assert isinstance(desk.decide(chat), NeedsBody)
        passage = desk.lets_in(chat, b'{"model": "m"}')
        refused = desk.refuses(chat, b'{"model": "m"}')
        assert (refused.status, refused.reason, refused.service) == (429, "concurrency", "digits")
        passage.leave()
        desk.lets_in(chat, b'{"model": "m"}').leave()

    at_desk(tmp_path, toml, test)


def test_a_request_that_is_wrong_costs_nothing_of_a_limit(tmp_path: Path) -> None:
    limited = KEY + "requests_per_second = 0.001\nburst = 1\n"
    toml = limited + '[[route]]\npath = "/a"\nservice = "digits"\nmax_body_mb = 0.000008\n'

    async def test(desk: Desk) -> None:
        assert desk.refuses(asked("/b")).status == 404
        assert desk.refuses(asked("/a", X_Muster_Deadline="0")).status == 400
        large = desk.refuses(asked("/a", method="POST", body=9))
        assert (large.status, large.reason, large.key, large.service) == (413, "body_too_large", "web", "digits")
        desk.lets_in(asked("/a"))
        refused = desk.refuses(asked("/a"))
        assert refused.reason == "rate_limited"
        assert refused.retry_after_seconds == pytest.approx(1000)

    at_desk(tmp_path, toml, test)


def test_a_body_that_is_too_large_to_look_for_a_model_is_told_what_to_do(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        decision = desk.decide(head(method="POST", body=9))
        assert isinstance(decision, NeedsBody)
        assert decision.most_bytes == 2_000_000
        assert (decision.refused.status, decision.refused.reason) == (413, "body_too_large")

    at_desk(tmp_path, '[limits]\nmodel_body_mb = 2\n[[route]]\nmodel = "m"\nservice = "digits"\n', test)


def test_header_rules_see_what_the_client_sent(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        assert desk.lets_in(head(X_Model="a")).service == "first"
        assert desk.lets_in(head(x_model="b")).service == "digits"

    at_desk(tmp_path, '[[route]]\nheader = {X-Model = "a"}\nservice = "first"\n' + ROUTE, test)


def test_what_is_named_has_a_gate_before_anybody_asks(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        assert [each.service for each in desk.services.statistics()] == ["admin/digits/6006"]

    at_desk(tmp_path, ROUTE, test)


def test_a_key_without_limits_needs_no_place_in_the_ledger() -> None:
    table = KeyTable(name="web", sha256=HASH)
    assert key_of(table, 3).slot is None
    assert key_of(table.model_copy(update={"concurrency": 1}), 3).slot == 3
    limited = key_of(table.model_copy(update={"requests_per_second": 2.5}), 3)
    assert (limited.slot, limited.burst) == (3, 3)


def test_true_takes_off_the_whole_path_and_a_text_that_part() -> None:
    assert rule_of(RouteTable(path="/a/b/", service="x", strip=True)).strip == 2
    assert rule_of(RouteTable(path="/a/b", service="x", strip="/a")).strip == 1
    assert rule_of(RouteTable(path="/a/b", service="x")).strip == 0


_VALUES = st.one_of(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=30),
    st.sampled_from(
        [
            "nan",
            "inf",
            "-inf",
            "1e400",
            "-0",
            "9" * 5000,
            "{",
            '{"a": 1e400}',
            "[" * 9000,
            "a=1,b",
            f"Bearer {SECRET}",
            SECRET,
        ]
    ),
)
_FIELDS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "X-Muster-Deadline",
                "X-Muster-Priority",
                "X-Muster-Features",
                "X-Muster-Demands",
                "X-Muster-Tenant",
                "X-Muster-Affinity",
                "X-Muster-Timeout",
                "X-Muster-Idempotent",
                "X-Muster-Resends",
                "X-Muster-",
                "x-muster-x",
                "Authorization",
                "X-API-Key",
                "X-Model",
                "A",
            ]
        ),
        _VALUES,
    ),
    max_size=5,
)
_TARGETS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=30)


def test_whatever_a_client_sends_something_is_decided(tmp_path: Path) -> None:
    toml = (
        'require_key = false\n[[route]]\npath = "/a"\nstrip = true\nservice = "digits"\n'
        '[[route]]\nhost = "*.example.com"\nservice = "*"\n[[route]]\nheader = {X-Model = "*"}\nservice = "b"\n'
        '[[route]]\nmodel = "m"\nservice = "c"\n' + KEY + "requests_per_second = 1e6\nconcurrency = 1\n"
    )

    async def test(desk: Desk) -> None:
        @given(_FIELDS, _TARGETS, st.sampled_from(["a", "x.example.com", "[::1]", ""]), st.binary(max_size=30))
        def decides(fields: list[tuple[str, str]], target: str, host: str, body: bytes) -> None:
            lines = [(name.encode(), value.encode("latin-1")) for name, value in fields]
            lines += [(b"Host", host.encode() or b"h"), (b"Content-Length", b"9")]
            asked = read_request(f"POST /{target} HTTP/1.1".encode(), lines)
            for given_body in (None, body):
                decision = desk.decide(asked, given_body)
                if isinstance(decision, Passage):
                    assert decision.target.startswith(b"/")
                    decision.leave()
                elif isinstance(decision, Refused):
                    assert 400 <= decision.status <= 599
                    assert decision.reason
                    assert decision.error.isprintable()
                    assert len(decision.error) < 1000
            assert desk.ledger.under_way(0) == 0

        decides()

    at_desk(tmp_path, toml, test)
