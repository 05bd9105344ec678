"""The rows of ``@beats.json`` and ``@claims.json``, from JSON that was parsed; pure.

One that cannot be read, of a newer version perhaps, is passed over: it must not hold up all the others.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from muster.errors import InvalidSpec
from muster.model.endpoint import ServiceKey
from muster.registry import names, stored
from muster.registry.port import Beat, Claim

_log = logging.getLogger(__name__)


def name_of(key: ServiceKey) -> str:
    """Return where a key's claim lies."""
    return names.relative_path(key).removesuffix(".json")


def beats(wire: Mapping[str, Any]) -> dict[str, Beat]:
    """Read the heartbeats that can be read."""
    found: dict[str, Beat] = {}
    for publisher, beat in wire.items():
        with _passed_over(f"the heartbeat of {publisher}"):
            found[publisher] = stored.beat_from_wire(beat)
    return found


def claims(wire: Mapping[str, Any]) -> dict[ServiceKey, Claim]:
    """Read the claims that can be read."""
    found: dict[ServiceKey, Claim] = {}
    for path, claim in wire.items():
        account, _, rest = path.partition("/")
        service, _, port = rest.partition("/")
        key = names.key_of(account, service, f"{port}.json")
        if key is not None:
            with _passed_over(f"the claim of {key}"):
                found[key] = stored.claim_from_wire(claim)
    return found


@contextlib.contextmanager
def _passed_over(what: str) -> Iterator[None]:
    try:
        yield
    except InvalidSpec as error:
        _log.debug("%s: foreign data: %s", what, error)
