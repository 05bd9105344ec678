"""Every one of AutoDL's calls, field by field, as two accounts: neither can do less, and neither sees the other's.

What is asked and what is right stands in ``contract``; each answer is checked against the schema that is checked in.
"""

import copy
from typing import Any

import pytest

from tests.compat.contract import CALLS, WRONG_VALUES, Call, Field, Things, check, things
from tests.compat.test_conventions import AUTODL
from tests.compat.world import World

ACCOUNTS = pytest.mark.parametrize("account", [0, 1], ids=["admin", "member"])
EVERY = pytest.mark.parametrize("call", CALLS, ids=[call.name for call in CALLS])
UNKNOWN = {"x": None, "page": 1, "cache": {"a": [1, {"b": None}]}, "entrypoint": "sh", "message": "", "": 0, "名": 1}


def changed(content: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Return a body with one field set, or with ``...`` left out."""
    made = copy.deepcopy(content)
    *way, last = name.split(".")
    inside = made
    for step in way:
        inside = inside[step]
    if value is ...:
        inside.pop(last, None)
    else:
        inside[last] = value
    return made


def fresh(world: World, own: Things, call: Call) -> dict[str, Any]:
    """Return a right body; what the call may have ended is made anew."""
    if call.names and call.name not in {"list_events", "list_containers", "list_packages"}:
        uuid = world.create(token=own.token)
        own = Things(own.token, uuid, str(world.place(uuid, gpu=len(world.row_uuids())).uuid))
    return call.valid(own)


def refusal(envelope: dict[str, Any]) -> tuple[str, str]:
    assert envelope["code"] != "Success", envelope
    assert envelope["data"] is None
    return envelope["code"], envelope["msg"]


def state(world: World, whose: Things) -> Any:
    """Return everything that calls could change of an account."""
    lists = ["list_deployments", "list_containers", "list_blacklist", "list_private_images"]
    calls = {call.name: call for call in CALLS}
    return [
        calls[name].ask(world, {"page_size": 1000} if name != "list_blacklist" else {}, whose.token)["data"]
        for name in lists
    ]


def test_the_table_holds_every_call_and_every_alias() -> None:
    listed = [(call.method, call.path) for call in CALLS] + [alias for call in CALLS for alias in call.aliases]
    assert sorted(listed) == sorted(AUTODL)


@ACCOUNTS
@EVERY
def test_a_right_call_succeeds_by_every_name_and_changes_nothing_of_others(
    world: World, call: Call, account: int
) -> None:
    own = things(world)[account]
    assert own.theirs is not None
    before = state(world, own.theirs)
    for by in [(call.method, call.path), *call.aliases]:
        envelope = call.ask(world, fresh(world, own, call), own.token, by=by)
        assert envelope["code"] == "Success", envelope
    assert state(world, own.theirs) == before


@ACCOUNTS
@EVERY
def test_optional_fields_may_be_absent_null_or_right(world: World, call: Call, account: int) -> None:
    own = things(world)[account]
    for name, field in call.fields.items():
        given: list[Any] = [*field.values] if field.is_required else [..., None, *field.values]
        for value in given:
            envelope = call.ask(world, changed(fresh(world, own, call), name, value), own.token)
            assert envelope["code"] == "Success", (name, value, envelope)


@ACCOUNTS
@EVERY
def test_required_fields_are_missed_by_name(world: World, call: Call, account: int) -> None:
    own = things(world)[account]
    for name, field in call.fields.items():
        for value in (..., None) if field.is_required else ():
            if value is None and call.is_query:
                continue
            code, msg = refusal(call.ask(world, changed(call.valid(own), name, value), own.token))
            assert code == "RequestParameterIsWrong"
            assert msg.startswith(f"请求参数错误: {name}: "), (name, value, msg)


@ACCOUNTS
@EVERY
def test_mistyped_fields_are_named_and_change_nothing(world: World, call: Call, account: int) -> None:
    own = things(world)[account]
    before = state(world, own)
    for name, field in call.fields.items():
        for value in WRONG_VALUES.get(field.kind, ()):
            code, msg = refusal(call.ask(world, changed(call.valid(own), name, value), own.token))
            assert code == "RequestParameterIsWrong", (name, value)
            assert msg.startswith(f"请求参数错误: {name}"), (name, value, msg)
    assert state(world, own) == before


@ACCOUNTS
@EVERY
def test_unknown_fields_change_nothing(world: World, call: Call, account: int) -> None:
    own = things(world)[account]
    content = fresh(world, own, call)
    with_more = {**content, **({} if call.is_query else UNKNOWN)}
    if "container_template" in content:
        with_more["container_template"] = {**content["container_template"], **UNKNOWN}
    assert call.ask(world, with_more, own.token)["code"] == "Success"


@ACCOUNTS
@pytest.mark.parametrize("call", [call for call in CALLS if call.names], ids=lambda call: call.name)
def test_what_is_another_accounts_looks_like_what_is_not_there(world: World, call: Call, account: int) -> None:
    own = things(world)[account]
    assert own.theirs is not None
    before = state(world, own.theirs)
    theirs = own.theirs.container if "container" in call.names else own.theirs.deployment
    content = call.valid(own)
    told = {
        refusal(call.ask(world, {**content, call.names: uuid}, own.token))
        for uuid in (theirs, "0123456789", "0123456789-0123456789-0123456789", "x", theirs.upper() + "x")
    }
    kind = "容器" if "container" in call.names else "部署"
    assert told == {("RecordNotFoundError", f"未查询到相关{kind}")}
    assert state(world, own.theirs) == before


@EVERY
def test_nothing_is_told_without_a_token_of_ours(world: World, call: Call) -> None:
    own = things(world)[0]
    for by in [(call.method, call.path), *call.aliases]:
        for token in ("", "mst_nobody", own.token + "x", own.token[:-1]):
            envelope = call.ask(world, call.valid(own), token, by=by)
            assert refusal(envelope) == ("AuthorizeFailed", "登录超时，请重新登录")


@pytest.mark.parametrize(("method", "path"), AUTODL)
def test_every_path_is_answered_in_the_envelope_also_where_it_is_called_wrongly(
    shared: World, method: str, path: str
) -> None:
    for content in (b"", b"{}", b"[]", b"\xff"):
        response = shared.send(method, path, content=content)
        assert response.status_code == 200
        if response.json()["code"] != "Success":
            check("refusal", response.json())


def test_kinds_of_fields_are_known() -> None:
    kinds = {field.kind for call in CALLS for field in call.fields.values()}
    assert kinds <= {*WRONG_VALUES, "query"}
    assert Field("text").values == ()
