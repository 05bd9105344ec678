"""Lines that people paste: which are keys, and what the others are told."""

import base64
import contextlib

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.api.public_key import TYPES, parse_public_key
from muster.errors import InvalidSpec

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJlrZ8nEGqsUYEGEzSMmQ0rAsZ5kIkYHCYh3Qd2SOzAS"


def made(kind: str, **options: int) -> asyncssh.SSHKey:
    return asyncssh.generate_private_key(kind, comment="ann@laptop", **options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ssh-ed25519", {}),
        ("ecdsa-sha2-nistp256", {}),
        ("ecdsa-sha2-nistp384", {}),
        ("ecdsa-sha2-nistp521", {}),
        ("ssh-rsa", {"key_size": 2048}),
    ],
)
def test_a_key_is_kept_without_its_comment(kind: str, options: dict[str, int]) -> None:
    key = made(kind, **options)
    found = parse_public_key(f"  {key.export_public_key().decode()}\r\n")
    assert found.fingerprint == key.get_fingerprint()
    assert found.comment == "ann@laptop"
    assert found.line.split()[0] == kind
    assert asyncssh.import_public_key(found.line) == asyncssh.import_public_key(key.export_public_key())


def packed(*fields: bytes) -> str:
    return base64.b64encode(b"".join(len(each).to_bytes(4, "big") + each for each in fields)).decode()


def test_keys_of_tokens_are_taken() -> None:
    ed, ecdsa = "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"
    assert parse_public_key(f"{ed} {packed(ed.encode(), b'x' * 32, b'ssh:')}").comment == ""
    assert parse_public_key(f"{ecdsa} {packed(ecdsa.encode(), b'nistp256', b'x' * 65, b'ssh:')} a b").comment == "a b"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n", "is a private key"),
        ("", "must be one line"),
        (f"{ED25519}\n{ED25519}", "must be one line"),
        ("hello", "begins with 'hello'"),
        (f'command="rm" {ED25519}', "has options in front"),
        ("ssh-dss AAAA", "begins with 'ssh-dss'"),
        ("ssh-ed25519", "has a type and no key"),
        ("ssh-ed25519 ====", "has a type and no key|no base64"),
        ("ssh-ed25519 äöü", "no base64"),
        (ED25519[:-4], "ends too early"),
        (ED25519.replace("ssh-ed25519", "ssh-rsa"), "holds another type"),
        (f"ssh-ed25519 {packed(b'ssh-ed25519', b'x' * 31)}", "does not hold"),
        (f"ssh-ed25519 {packed(b'ssh-ed25519', b'x' * 32, b'more')}", "does not hold"),
        (f"ecdsa-sha2-nistp256 {packed(b'ecdsa-sha2-nistp256', b'nistp384', b'x' * 65)}", "does not hold"),
        (f"ssh-rsa {packed(b'ssh-rsa', b'x')}", "does not hold"),
        (f"ssh-rsa {packed(b'ssh-rsa', b'x', bytes([1]) * 128)}", "RSA key of 1017 bits"),
    ],
)
def test_what_is_no_key_is_told_why(text: str, told: str) -> None:
    with pytest.raises(InvalidSpec, match=told) as refused:
        parse_public_key(text)
    assert refused.value.field == "key"


@given(st.sampled_from(TYPES), st.binary(max_size=80))
def test_whatever_is_pasted_is_a_key_or_refused(kind: str, blob: bytes) -> None:
    for text in (f"{kind} {base64.b64encode(blob).decode()}", f"{kind} {packed(kind.encode(), blob)}"):
        with contextlib.suppress(InvalidSpec):
            assert parse_public_key(text).line.startswith(kind)
