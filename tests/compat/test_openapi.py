"""The checked-in OpenAPI file is what the app serves.

To renew it after a change of the API::

    .venv/bin/python -m tests.compat.test_openapi
"""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from tests.compat.world import World

FILE = Path(__file__).parent / "openapi.json"


def rendered(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def test_the_checked_in_file_is_current(shared: World) -> None:
    served = shared.send("GET", "/openapi.json").json()
    assert rendered(served) == FILE.read_text(), f"renew it: python -m {__name__}"


def test_every_operation_has_a_name_of_its_own_and_a_summary(shared: World) -> None:
    paths = shared.send("GET", "/openapi.json").json()["paths"]
    operations = [operation for methods in paths.values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["description"] for operation in operations)


def test_refusals_are_documented_as_they_are(shared: World) -> None:
    document = shared.send("GET", "/openapi.json").json()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert "422" not in operation["responses"], path
            assert ("default" in operation["responses"]) == path.startswith("/api/v1/muster")
            assert ("security" in operation) == path.startswith("/api/")


def test_every_documented_call_asks_for_a_token_before_anything_else(shared: World) -> None:
    paths = shared.send("GET", "/openapi.json").json()["paths"]
    calls = [
        (method, path)
        for path, methods in paths.items()
        for method, operation in methods.items()
        if path.startswith("/api/") and operation["security"]
    ]
    assert ("post", "/api/v1/dev/deployment") in calls
    for method, path in calls:
        response = shared.send(method.upper(), re.sub(r"{\w+}", "x", path), token="", content=b"{}")
        answer = response.json()
        assert answer.get("error", answer)["code"] == "AuthorizeFailed", (method, path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, World(Path(folder)) as world:
        FILE.write_text(rendered(world.send("GET", "/openapi.json").json()))
