"""Which models a caller is told of, and whose affair it is to tell."""

import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from muster.gateway.port import Passage, Told
from tests.unit.gateway.ground import Desk, desk, head, run, until

WEB, ALL = "mgw_web", "mgw_all"
ROUTES = """
[[route]]
path = "/v1/chat/completions"
model = ["llama-3", "meta/llama-3"]
service = "llama"
[[route]]
path = "/v1/"
model = ["qwen", "llama-3"]
service = "qwen"
[[route]]
host = "hidden.example.com"
model = "hidden"
service = "qwen"
[[route]]
path = "/other/v1"
model = "other"
service = "qwen"
strip = "/other"
[[route]]
host = "*.svc.example.com"
model = "own"
service = "*"
"""


def key(name: str, secret: str, more: str = "") -> str:
    return f'[[key]]\nname = "{name}"\nsha256 = "{hashlib.sha256(secret.encode()).hexdigest()}"\n{more}\n'


KEYS = key("web", WEB, 'services = ["llama"]') + key("all", ALL)


def at_desk(folder: Path, toml: str, test: Callable[[Desk], Awaitable[None]], *names: str, **flags: Any) -> None:
    async def main() -> None:
        async with desk(folder, toml, *names, **flags) as made:
            await test(made)

    run(main())


def listed(desk: Desk, target: str = "/v1/models", secret: str = "", **fields: Any) -> list[str]:
    return [each["id"] for each in told(desk, target, secret, **fields)["data"]]


def told(desk: Desk, target: str, secret: str = "", **fields: Any) -> Any:
    if secret:
        fields["Authorization"] = f"Bearer {secret}"
    answer = desk.decide(head(target, **fields))
    assert isinstance(answer, Told), answer
    return json.loads(answer.body)


def test_models_of_routes_are_listed_as_clients_of_the_api_read_it(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        assert told(desk, "/v1/models?limit=20") == {
            "object": "list",
            "data": [
                {"id": each, "object": "model", "created": 0, "owned_by": "muster"}
                for each in ("llama-3", "meta/llama-3", "qwen")
            ],
        }
        assert listed(desk, "/v1/models/") == listed(desk, method="HEAD") == listed(desk)

    at_desk(tmp_path, ROUTES, test)


def test_routes_of_another_host_or_path_are_another_api(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        assert "hidden" in listed(desk, host="hidden.example.com")
        assert "own" in listed(desk, host="digits.svc.example.com")
        assert "own" not in listed(desk, host="a.digits.svc.example.com")
        assert listed(desk, "/other/v1/models") == ["other"]
        assert desk.refuses(head("/else/v1/models")).reason == "no_route"
        for asked in (head("/v1/models", method="DELETE"), head("/v1/model"), head("/models")):
            assert desk.refuses(asked).reason == "no_route"

    at_desk(tmp_path, ROUTES, test)


@pytest.mark.parametrize("target", ["/v1/models/meta/llama-3", "/v1/models/meta%2Fllama-3"])
def test_one_model_is_told_by_its_name_which_may_have_slashes(tmp_path: Path, target: str) -> None:
    async def test(desk: Desk) -> None:
        assert told(desk, target)["id"] == "meta/llama-3"
        refused = desk.refuses(head("/v1/models/gpt"))
        assert (refused.status, refused.reason) == (404, "unknown_model")

    at_desk(tmp_path, ROUTES, test)


def test_a_key_sees_the_models_of_its_services_only(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        assert desk.refuses(head("/v1/models")).reason == "no_key"
        assert listed(desk, secret=WEB) == ["llama-3", "meta/llama-3"]
        assert listed(desk, "/other/v1/models", WEB) == []
        assert "qwen" in listed(desk, secret=ALL)
        refused = desk.refuses(head("/v1/models/qwen", Authorization=f"Bearer {WEB}"))
        assert (refused.status, refused.reason, refused.key) == (404, "unknown_model", "web")
        answer = desk.decide(head("/v1/models", Authorization=f"Bearer {WEB}"))
        assert isinstance(answer, Told)
        assert answer.key == "web"

    at_desk(tmp_path, KEYS + ROUTES, test)


def test_a_route_that_catches_the_path_answers_for_itself(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        passage = desk.lets_in(head("/v1/models"))
        assert passage.service == "digits"
        passage.leave()

    at_desk(tmp_path, ROUTES + '[[route]]\npath = "/v1/models"\nservice = "digits"\n', test)


def test_one_service_gets_everything_and_tells_its_own_models(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        assert isinstance(desk.decide(head("/v1/models")), Passage)

    at_desk(tmp_path, "", test, service=["digits"])


def test_of_several_services_each_is_a_model(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        assert listed(desk, secret=ALL) == ["asr", "llama"]
        assert listed(desk, secret=WEB) == ["llama"]
        assert desk.lets_in(head("/llama/v1/models", Authorization=f"Bearer {WEB}")).target == b"/v1/models"

    at_desk(tmp_path, KEYS, test, service=["asr", "llama"])


def test_without_services_those_that_the_registry_lists_are_models(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        await until(lambda: desk.services.names)
        assert listed(desk) == ["asr", "digits"]
        assert told(desk, "/v1/models/asr")["id"] == "asr"

    at_desk(tmp_path, "", test, "digits", "asr")
