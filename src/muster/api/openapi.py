"""The OpenAPI document: FastAPI's, corrected where our routes do not behave as FastAPI assumes.

FastAPI documents a 422 with its own body for every route that can be called wrongly. AutoDL's paths never answer one:
a refusal is a 200 with ``Refused`` in place of what was asked for. Ours answer it with our own body, like every other
refusal.
"""

from typing import Any

from fastapi import FastAPI

from muster.api.envelope import EXTENSION, Refused

_REFUSAL = {
    "title": "Refusal",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "field", "request_id"],
            "properties": {name: {"type": "string"} for name in ("code", "message", "field", "request_id")},
        }
    },
}


def install(app: FastAPI) -> None:
    """Let the app answer ``/openapi.json`` with the corrected document."""
    generate = app.openapi

    def corrected() -> dict[str, Any]:
        if app.openapi_schema is None:
            _correct(generate())
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = corrected  # type: ignore[method-assign]


def _correct(document: dict[str, Any]) -> None:
    """Change FastAPI's document in place: it is the one that the app keeps."""
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Refusal"] = _REFUSAL
    schemas["Refused"] = Refused.model_json_schema(mode="serialization")
    document["components"]["securitySchemes"] = {
        "token": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "the raw token"}
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            if path.startswith("/api/"):
                operation.setdefault("security", [{"token": []}])  # a route that is for everybody says so itself
                answer = operation["responses"].get("200", {}).get("content", {}).get("application/json")
                if answer is not None and not path.startswith(EXTENSION):
                    answer["schema"] = {"anyOf": [answer["schema"], {"$ref": "#/components/schemas/Refused"}]}
            if path.startswith(EXTENSION):
                operation["responses"]["default"] = {
                    "description": "Refused",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}},
                }
