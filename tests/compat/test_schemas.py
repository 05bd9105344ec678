"""The shapes of AutoDL's answers as JSON Schema, one file per call: what a client written in any language may rely on.

They are made from our models and checked in, so that a change of a shape is seen in review; ``test_contract`` holds
every answer against them. To renew them::

    .venv/bin/python -m tests.compat.test_schemas
"""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from tests.compat.contract import CALLS, SCHEMAS
from tests.compat.world import World

_REFERENCE = re.compile(r"#/components/schemas/(\w+)")


def schemas_of(document: dict[str, Any]) -> dict[str, str]:
    """Return the text of each file by its name, from the OpenAPI document."""
    known = document["components"]["schemas"]
    files = {"refusal": _file({"$ref": "#/components/schemas/Refused"}, known)}
    for methods in document["paths"].values():
        for operation in methods.values():
            if "AutoDL" in operation["tags"]:
                answer, _ = operation["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]
                files[operation["operationId"]] = _file(answer, known)
    return files


def _file(answer: Any, known: dict[str, Any]) -> str:
    """Write one schema that needs no other file; what it refers to is within it."""
    needed: dict[str, Any] = {}
    pending = [answer]
    while pending:
        for name in _REFERENCE.findall(json.dumps(pending.pop())):
            if name not in needed:
                needed[name] = known[name]
                pending.append(known[name])
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **answer, "$defs": needed}
    return _REFERENCE.sub(r"#/$defs/\1", json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True)) + "\n"


def test_the_checked_in_schemas_are_current(shared: World) -> None:
    files = {path.stem: path.read_text() for path in SCHEMAS.glob("*.json")}
    assert files == schemas_of(shared.send("GET", "/openapi.json").json()), f"renew them: python -m {__name__}"


def test_every_call_has_one_and_every_one_is_a_schema() -> None:
    files = {path.stem: json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")}
    assert set(files) == {*(call.name for call in CALLS), "refusal"}
    for schema in files.values():
        Draft202012Validator.check_schema(schema)
        named = schema["$defs"][schema["$ref"].rpartition("/")[2]]
        assert set(named["required"]) >= {"code", "data", "msg", "request_id"}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, World(Path(folder)) as world:
        served = world.send("GET", "/openapi.json").json()
    SCHEMAS.mkdir(exist_ok=True)
    for old in SCHEMAS.glob("*.json"):
        old.unlink()
    for name, text in schemas_of(served).items():
        (SCHEMAS / f"{name}.json").write_text(text)
