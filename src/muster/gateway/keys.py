"""Who asks: API keys, of which only the hashes are known here, and what each of them may.

A key is 32 random bytes, so its plain SHA-256 is as good as a slow one: there is nothing to guess. It is found by the
hash of what was sent, whose bytes nobody can choose, so that how long the look-up takes tells nothing about any key.

It is sent in ``X-API-Key`` or else as ``Authorization: Bearer``. The field that was ours does not go on to the replica;
where ``X-API-Key`` is given, ``Authorization`` is the replica's own affair and goes on, unless it holds a key of ours
too, which no replica may learn.
"""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from muster.gateway.port import Refused

PREFIX = "mgw_"
MOST_KEY_BYTES = 512
API_KEY = b"x-api-key"
AUTHORIZATION = b"authorization"
_CHALLENGE = b'WWW-Authenticate: Bearer realm="muster gateway"\r\n'
_HOW = "send it as Authorization: Bearer KEY, or as X-API-Key"


@dataclass(frozen=True, slots=True)
class Key:
    """What one key may. ``slot`` is its place in the ledger, ``None`` if nothing of it is counted."""

    name: str
    sha256: str = field(repr=False)
    tenant: str = ""
    priority: int = 0
    services: frozenset[str] | None = None
    requests_per_second: float | None = None
    burst: int = 1
    concurrency: int | None = None
    deadline: float | None = None
    is_revoked: bool = False
    is_disabled: bool = False
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and which fields were for the gateway only. Without a key: somebody who need not have one."""

    key: Key | None = None
    dropped: frozenset[bytes] = frozenset()


ANYBODY = Caller()
_NOTHING: frozenset[bytes] = frozenset()
_BY_API_KEY = frozenset([API_KEY])
_BY_AUTHORIZATION = frozenset([AUTHORIZATION])


class Keyring:
    """The keys of a configuration."""

    def __init__(self, keys: Iterable[Key] = (), *, is_needed: bool = False) -> None:
        self._by_hash = {key.sha256: key for key in keys}
        self._is_needed = is_needed

    def caller(self, api_keys: Sequence[bytes], authorizations: Sequence[bytes]) -> Caller | Refused:
        """Return who asks, by the values of the two fields."""
        if not self._by_hash and not self._is_needed:
            return ANYBODY
        bearers = [each[7:].strip() for each in authorizations if each[:7].lower() == b"bearer "]
        if api_keys:
            values, dropped, what = api_keys, _BY_API_KEY, "X-API-Key"
            beside = _BY_AUTHORIZATION if any(map(self._find, bearers)) else _NOTHING
        else:
            values, dropped, what, beside = bearers, _BY_AUTHORIZATION, "Authorization", _NOTHING
        if not values:
            return self._without(f"this needs an API key: {_HOW}", "no_key", beside)
        if len(values) > 1:
            return Refused(400, "invalid", f"{what} is there twice: which key is meant?")
        key = self._find(values[0].strip())
        if key is None:
            return self._without(
                "the API key is not known here: is it complete, and this gateway's?", "unknown_key", beside
            )
        if key.is_revoked:
            return _refused(
                f"the API key {key.name!r} was revoked: ask whoever runs this gateway for another",
                "revoked_key",
                key.name,
            )
        if key.is_disabled:
            return _refused(
                f"the API key {key.name!r} is disabled for now: ask whoever runs this gateway", "disabled_key", key.name
            )
        return Caller(key, dropped | beside)

    def _find(self, secret: bytes) -> Key | None:
        if not 0 < len(secret) <= MOST_KEY_BYTES:
            return None
        return self._by_hash.get(hashlib.sha256(secret).hexdigest())

    def _without(self, error: str, reason: str, beside: frozenset[bytes]) -> Caller | Refused:
        """Refuse, unless a key is only for those who want to have one: what was sent may be for the replica."""
        return _refused(error, reason, "") if self._is_needed else Caller(dropped=beside)


def _refused(error: str, reason: str, name: str) -> Refused:
    return Refused(401, reason, error, key=name, lines=_CHALLENGE)


def new_key() -> tuple[str, str]:
    """Return a fresh key, and the hash that is written down."""
    key = PREFIX + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()
