"""Which models there are, as clients of OpenAI's API ask for them: ``GET /v1/models``, and ``/v1/models/NAME`` for one.

In: the path of a request, and for each model the service that has it (``routing.py`` finds both). Out: an answer of the
gateway's own, which names only what the key may ask for; any other model does not exist, as far as its holder learns.

``created`` is a number that such an answer must have. Nobody notes when a model came to be, so it is 0 for all.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from muster.gateway.keys import Key
from muster.gateway.port import Refused, Told

API: Final = "v1"
_LISTED = (API, "models")
_METHODS = frozenset([b"GET", b"HEAD"])


@dataclass(frozen=True, slots=True)
class Models:
    """Somebody asks which models there are, or for the one that is ``wanted``; ``services`` says who has each."""

    services: Mapping[str, str]
    wanted: str = ""


def asked_models(method: bytes, names: Sequence[str]) -> tuple[Sequence[str], str] | None:
    """Return what the API begins with and which model is wanted, empty for all; ``None`` if it is no such question."""
    if method not in _METHODS:
        return None
    for at in range(1, len(names)):
        if tuple(names[at - 1 : at + 1]) == _LISTED:
            return names[:at], "/".join(names[at + 1 :])  # names of models may have slashes
    return None


def told(models: Models, key: Key | None) -> Told | Refused:
    """Answer with what the holder of a key may ask for."""
    services = None if key is None else key.services
    seen = sorted(name for name, service in models.services.items() if services is None or service in services)
    name = "" if key is None else key.name
    if not models.wanted:
        return _told({"object": "list", "data": list(map(_model, seen))}, name)
    if models.wanted in seen:
        return _told(_model(models.wanted), name)
    return Refused(
        404, "unknown_model", f"no model is called {models.wanted[:128]!r} here: ask for /v1/models", key=name
    )


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "muster"}


def _told(value: Mapping[str, Any], key: str) -> Told:
    return Told("models", json.dumps(value).encode() + b"\n", key)
