"""Who asks: a key in either header, and what those are told who have none that counts."""

import hashlib
from collections.abc import Sequence
from typing import Any

from muster.gateway.keys import ANYBODY, Caller, Key, Keyring, new_key
from muster.gateway.port import Refused

SECRET = b"mgw_secret"


def a_key(name: str = "web", secret: bytes = SECRET, **fields: Any) -> Key:
    return Key(name, hashlib.sha256(secret).hexdigest(), **fields)


def ring(*keys: Key, is_needed: bool = True) -> Keyring:
    return Keyring(keys or [a_key()], is_needed=is_needed)


def refused(keyring: Keyring, api_keys: Sequence[bytes] = (), authorizations: Sequence[bytes] = ()) -> Refused:
    found = keyring.caller(api_keys, authorizations)
    assert isinstance(found, Refused), found
    return found


def test_a_key_is_known_in_either_header_which_does_not_go_on() -> None:
    assert ring().caller([SECRET], []) == Caller(a_key(), frozenset([b"x-api-key"]))
    assert ring().caller([], [b"Bearer " + SECRET]) == Caller(a_key(), frozenset([b"authorization"]))
    assert ring().caller([], [b"bearer  " + SECRET]) == Caller(a_key(), frozenset([b"authorization"]))


def test_beside_an_api_key_the_authorization_is_the_replicas() -> None:
    assert ring().caller([SECRET], [b"Bearer for-the-replica"]) == Caller(a_key(), frozenset([b"x-api-key"]))


def test_a_key_of_ours_goes_on_in_neither_header() -> None:
    both = frozenset([b"x-api-key", b"authorization"])
    assert ring().caller([SECRET], [b"Bearer  " + SECRET]) == Caller(a_key(), both)
    other = a_key("other", b"mgw_other", is_revoked=True)
    assert ring(a_key(), other).caller([SECRET], [b"Bearer mgw_other"]) == Caller(a_key(), both)
    stranger = ring(is_needed=False).caller([b"for-the-replica"], [b"Bearer " + SECRET])
    assert stranger == Caller(dropped=frozenset([b"authorization"]))


def test_without_a_key_nobody_gets_in_and_is_told_how() -> None:
    answer = refused(ring())
    assert (answer.status, answer.reason) == (401, "no_key")
    assert answer.lines.startswith(b"WWW-Authenticate: Bearer")
    assert refused(ring(), [], [b"Basic YQ=="]).reason == "no_key"


def test_a_wrong_key_is_unknown_and_not_repeated() -> None:
    for wrong in (b"x", b"", SECRET + b"x", SECRET[:-1], b"x" * 10_000):
        answer = refused(ring(), [wrong])
        assert (answer.status, answer.reason, answer.key) == (401, "unknown_key", "")
        assert "mgw_" not in answer.error


def test_a_key_that_was_revoked_or_disabled_says_so_by_its_name() -> None:
    answer = refused(ring(a_key(is_revoked=True)), [SECRET])
    assert (answer.status, answer.reason, answer.key) == (401, "revoked_key", "web")
    assert "revoked" in answer.error
    assert refused(ring(a_key(is_disabled=True)), [SECRET]).reason == "disabled_key"


def test_two_keys_are_not_chosen_between() -> None:
    assert refused(ring(), [SECRET, b"other"]).status == 400


def test_where_a_key_is_not_needed_strangers_get_in_with_what_they_sent() -> None:
    keyring = ring(is_needed=False)
    assert keyring.caller([], []) == ANYBODY
    assert keyring.caller([], [b"Bearer for-the-replica"]) == ANYBODY
    assert keyring.caller([], [b"Bearer " + SECRET]) == Caller(a_key(), frozenset([b"authorization"]))
    assert refused(ring(a_key(is_revoked=True), is_needed=False), [SECRET]).reason == "revoked_key"


def test_without_keys_nothing_is_looked_at() -> None:
    assert Keyring().caller([b"a", b"b"], [b"Bearer x"]) == ANYBODY


def test_a_key_does_not_show_its_hash() -> None:
    assert a_key().sha256 not in repr(a_key())


def test_a_new_key_is_one_that_its_hash_lets_in() -> None:
    secret, digest = new_key()
    caller = Keyring([Key("a", digest)], is_needed=True).caller([], [f"Bearer {secret}".encode()])
    assert isinstance(caller, Caller)
    assert new_key()[0] != secret
