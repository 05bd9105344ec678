"""For which service a request is: rules in their order, and paths that mean one thing only."""

import json
import urllib.parse
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.gateway.routing import NEEDS_BODY, Found, Match, NoRoute, Path, Rule, Table, segments_of
from muster.http1.request_head import RequestHead
from tests.unit.gateway.ground import head

NO_FIELDS: Mapping[str, str] = MappingProxyType({})


def rule(service: str, path: str = "", **fields: object) -> Rule:
    return Rule(service, path=segments_of(path), **fields)  # type: ignore[arg-type]


def find(
    table: Table, asked: RequestHead, body: bytes | None = None, *, fields: Mapping[str, str] = NO_FIELDS
) -> Found:
    return table.find(asked, fields.get, body)


def service_of(
    table: Table, asked: RequestHead, body: bytes | None = None, *, fields: Mapping[str, str] = NO_FIELDS
) -> str | None:
    found = find(table, asked, body, fields=fields)
    return found.service if isinstance(found, Match) else None


def target_of(table: Table, target: str) -> str:
    found = find(table, head(target))
    assert isinstance(found, Match), found
    return found.target.decode()


def refusal(found: Found) -> NoRoute:
    assert isinstance(found, NoRoute), found
    return found


def test_the_first_rule_that_matches_wins_in_the_order_of_the_file() -> None:
    table = Table([rule("first", "/a"), rule("longer", "/a/b"), rule("rest")])
    assert service_of(table, head("/a/b")) == "first"
    assert service_of(table, head("/b")) == "rest"


def test_a_path_holds_for_whole_segments() -> None:
    table = Table([rule("v1", "/v1/")])
    assert service_of(table, head("/v1/x")) == "v1"
    assert service_of(table, head("/v1")) == "v1"
    assert service_of(table, head("/v1?x=/")) == "v1"
    assert service_of(table, head("/v10")) is None
    assert service_of(table, head("/a/v1")) is None


@pytest.mark.parametrize("target", ["/v1/x", "//v1/x", "/%76%31/x", "/a/../v1/x", "/./v1/x", "/a/%2e%2E/v1/x"])
def test_ways_to_write_one_path_are_one_path(target: str) -> None:
    assert service_of(Table([rule("v1", "/v1"), rule("rest")]), head(target)) == "v1"


@pytest.mark.parametrize("target", ["/v1/../admin", "/v1/%2e%2e/admin", "/v1/x/../../admin", "/v1//../../admin"])
def test_a_path_that_leaves_a_rule_by_dots_is_not_under_it(target: str) -> None:
    assert service_of(Table([rule("v1", "/v1"), rule("admin", "/admin")]), head(target)) == "admin"


@pytest.mark.parametrize(
    "target",
    [
        "/..",
        "/a/../..",
        "/%2e%2e/",
        "/a/..%2f..%2fb",
        "/a%2f..%2f..",
        "/a/..%5cb",
        "/a\\..\\b",
        "/a%00b",
        "/a/..;/b",
        "/a/..;x=1/b",
        "/a/%2e%2e%3b/b",
        "/a/x%2f..;/b",
    ],
)
def test_a_path_that_leaves_the_root_or_hides_dots_is_refused(target: str) -> None:
    assert refusal(find(Table([rule("rest")]), head(target))).reason == "bad_path"


@pytest.mark.parametrize(
    ("target", "goes_on"),
    [
        ("/v1/x", "/x"),
        ("/v1", "/"),
        ("/v1/", "/"),
        ("/v1/x/", "/x/"),
        ("/v1?a=b", "/?a=b"),
        ("/v1/x%2Fy?a=/../", "/x%2Fy?a=/../"),
        ("//v1//x", "/x"),
        ("/v1/a//b", "/a//b"),
        ("/%76%31/x", "/x"),
        ("/v1/a/../b", "/b"),
        ("/v1/a/..", "/"),
        ("/v1/a/.", "/a/"),
    ],
)
def test_a_prefix_is_taken_off_and_the_rest_goes_on_as_it_came(target: str, goes_on: str) -> None:
    assert target_of(Table([rule("a", "/v1", strip=1)]), target) == goes_on


@pytest.mark.parametrize("target", ["/v1/%41?x=%2e%2e", "/v1/a//b/", "//v1/x", "/*", "/v1/a%20b"])
def test_without_dots_a_path_that_is_not_stripped_goes_on_byte_by_byte(target: str) -> None:
    assert target_of(Table([rule("a")]), target) == target


def test_a_path_with_dots_goes_on_resolved() -> None:
    assert target_of(Table([rule("a")]), "/x/%2e%2e/y/./z?q") == "/y/z?q"


def test_a_part_of_the_path_may_be_taken_off() -> None:
    assert target_of(Table([rule("a", "/llm/v1", strip=1)]), "/llm/v1/chat") == "/v1/chat"


def test_the_target_of_options_for_all_has_no_path() -> None:
    table = Table([rule("v1", "/v1"), rule("rest")])
    found = find(table, head("*", method="OPTIONS"))
    assert isinstance(found, Match)
    assert (found.service, found.target) == ("rest", b"*")


@pytest.mark.parametrize(
    ("host", "service"),
    [
        ("a.example.com", "a"),
        ("A.EXAMPLE.com:8080", "a"),
        ("a.example.com.", "a"),
        ("b.example.com", "any"),
        ("x.b.example.com", "any"),
        ("example.com", "rest"),
        ("badexample.com", "rest"),
        ("[::1]:80", "six"),
    ],
)
def test_a_host_is_compared_without_port_and_case(host: str, service: str) -> None:
    table = Table(
        [rule("a", host="a.example.com"), rule("any", host="*.example.com"), rule("six", host="[::1]"), rule("rest")]
    )
    assert service_of(table, head(host=host)) == service


def test_the_star_of_a_host_may_be_the_service() -> None:
    table = Table([rule("*", host="*.example.com"), rule("rest")])
    assert service_of(table, head(host="digits.example.com")) == "digits"
    assert service_of(table, head(host="a.b.example.com")) == "rest"
    assert service_of(table, head(host=f"{'a' * 200}.example.com")) == "rest"
    assert table.named == [("rest", 6006)]


def test_a_header_has_a_value_or_any() -> None:
    table = Table([rule("a", header={"x-a": "1"}), rule("b", header={"x-b": "*"})])
    assert service_of(table, head(), fields={"x-a": "1"}) == "a"
    assert service_of(table, head(), fields={"x-a": "2", "x-b": ""}) == "b"
    assert service_of(table, head()) is None


MODELS = Table([rule("llama", models=frozenset({"llama-3"})), rule("qwen", models=frozenset({"qwen", "qwen-2"}))])


def test_a_model_is_read_from_the_body_which_is_waited_for() -> None:
    asked = head("/v1/chat/completions", method="POST", body=9)
    assert find(MODELS, asked) == NEEDS_BODY
    assert service_of(MODELS, asked, b'{"model": "qwen-2"}') == "qwen"


def test_a_model_that_nobody_has_is_named_with_those_that_there_are() -> None:
    found = refusal(find(MODELS, head(method="POST", body=9), b'{"model": "gpt"}'))
    assert (found.status, found.reason) == (404, "unknown_model")
    assert "'gpt'" in found.error
    assert "'llama-3', 'qwen', 'qwen-2'" in found.error


@pytest.mark.parametrize("body", [b"", b"x", b"[]", b'{"model": 3}', b'{"model": ""}', b"\xff", b"[" * 100_000])
def test_a_body_without_a_model_is_told_what_it_lacks(body: bytes) -> None:
    found = refusal(find(MODELS, head(method="POST", body=9), body))
    assert (found.status, found.reason) == (400, "no_model")
    assert "'llama-3'" in found.error


def test_without_a_body_a_rule_with_models_is_passed_by() -> None:
    table = Table([rule("llama", "/v1", models=frozenset({"llama-3"})), rule("rest", "/v1")])
    assert service_of(table, head("/v1/models")) == "rest"
    assert refusal(find(MODELS, head("/v1/files"))).status == 404


def test_a_rule_before_those_with_models_does_not_wait_for_the_body() -> None:
    table = Table([rule("up", "/upload"), rule("llama", models=frozenset({"llama-3"}))])
    assert service_of(table, head("/upload", method="PUT", body=9)) == "up"


def test_one_service_gets_everything() -> None:
    table = Table(services=["digits"])
    assert target_of(table, "/v1/x") == "/v1/x"
    assert table.named == [("digits", 6006)]


class TestSeveralServices:
    table = Table(services=["digits", "asr"])

    def test_the_first_segment_says_which_and_is_taken_off(self) -> None:
        assert service_of(self.table, head("/asr/x")) == "asr"
        assert target_of(self.table, "/asr/x?y") == "/x?y"

    def test_so_does_the_first_label_of_the_host(self) -> None:
        found = find(self.table, head("/asr/x", host="digits.example.com:80"))
        assert isinstance(found, Match)
        assert (found.service, found.target) == ("digits", b"/asr/x")

    def test_so_does_a_model_below_v1(self) -> None:
        asked = head("/v1/chat", method="POST", body=3)
        assert find(self.table, asked) == NEEDS_BODY
        assert service_of(self.table, asked, b'{"model": "asr"}') == "asr"
        assert refusal(find(self.table, asked, b'{"model": "x"}')).reason == "unknown_model"

    def test_any_other_is_unknown_and_the_known_ones_are_named(self) -> None:
        found = refusal(find(self.table, head("/tts/x")))
        assert (found.status, found.reason) == (404, "unknown_service")
        assert "'digits', 'asr'" in found.error
        assert refusal(find(self.table, head("/"))).reason == "no_route"

    def test_names_are_not_told_where_they_are_not_for_everybody(self) -> None:
        table = Table(services=["digits", "asr"], tells_names=False)
        assert "digits" not in refusal(find(table, head("/tts/x"))).error


def test_without_any_service_every_name_may_be_meant_but_not_every_host() -> None:
    table = Table(knows=lambda name: name == "digits")
    assert service_of(table, head("/anything/x")) == "anything"
    assert service_of(table, head("/x/y", host="digits.example.com")) == "digits"
    assert service_of(table, head("/x/y", host="gateway.example.com")) == "x"
    assert service_of(table, head("/x/y", host="127.0.0.1:80")) == "x"
    assert refusal(find(table, head("/a%0Ab/"))).reason == "unknown_service"
    assert refusal(find(table, head("/" + "a" * 200))).reason == "unknown_service"


_SEGMENTS = st.lists(
    st.sampled_from(["a", "b", "", ".", "..", "%2e", "%2E%2e", "%61", "%2f", "..%2f", "c%5c..", "*"]), max_size=6
)


@given(_SEGMENTS)
def test_no_way_of_writing_a_path_gets_out_of_a_stripped_prefix(segments: list[str]) -> None:
    """Whatever a server behind us decodes and resolves, it stays below the root, and is what was matched."""
    target = "/" + "/".join(segments)
    try:
        path = Path(target.encode())
    except ValueError:
        return
    goes_on = path.without(min(1, len(path.names))).decode()
    assert goes_on.startswith("/")
    resolved: list[str] = []
    for each in urllib.parse.unquote(goes_on).replace("\\", "/").split("/"):
        assert each not in {".", ".."}
        if each:
            resolved.append(each)
    assert resolved == [part for name in path.names[1:] for part in name.split("/") if part]


@given(st.binary(max_size=200))
def test_no_body_breaks_the_search_for_a_model(body: bytes) -> None:
    found = find(MODELS, head(method="POST", body=9), body)
    assert isinstance(found, Match | NoRoute)


@given(st.text(max_size=20))
def test_a_model_that_is_named_exactly_is_found(model: str) -> None:
    table = Table([rule("a", models=frozenset({model}))])
    found = find(table, head(method="POST", body=9), json.dumps({"model": model}).encode("utf-8", "surrogatepass"))
    assert isinstance(found, Match) == bool(model)
