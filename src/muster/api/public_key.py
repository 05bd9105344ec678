"""Public keys as people paste them: one line of OpenSSH, judged by its structure.

In: text. Out: the line as it is kept (type and base64), its fingerprint and its comment. What is refused says why in
the words of whoever pasted it: a private key, options in front, a type that is out of date, an RSA key that is short.
Whether a key is any good is the SSH gateway's to find out; here nothing needs a library.
"""

import base64
import hashlib
from dataclasses import dataclass

from muster.errors import InvalidSpec

_CURVES = {"nistp256": 65, "nistp384": 97, "nistp521": 133}
"""Bytes of an uncompressed point."""
_SHORTEST_RSA_BITS = 2048
_LONGEST_RSA_BITS = 16384
TYPES = (
    "ssh-ed25519",
    *(f"ecdsa-sha2-{curve}" for curve in _CURVES),
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that was understood. ``line`` is its type and base64."""

    line: str
    fingerprint: str
    comment: str


def parse_public_key(text: str) -> PublicKey:
    """Read one line of OpenSSH. Raises ``InvalidSpec``."""
    text = text.strip()
    if "PRIVATE KEY" in text:
        raise _refusal("is a private key, which nobody else should have: give the line of the file that ends in .pub")
    if len(text.splitlines()) != 1:
        raise _refusal("must be one line, as in a file that ends in .pub")
    words = text.split(None, 2)
    if words[0] not in TYPES:
        if any(word in TYPES for word in text.split()):
            raise _refusal("has options in front, which are not supported: begin with the type of the key")
        raise _refusal(f"begins with {words[0][:40]!r}; the types that are taken are {', '.join(TYPES)}")
    if len(words) == 1:
        raise _refusal("has a type and no key")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except ValueError as error:
        raise _refusal("is no base64 after its type: was a part of it cut off?") from error
    _check(words[0], blob)
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    line = f"{words[0]} {base64.b64encode(blob).decode()}"
    return PublicKey(line, f"SHA256:{digest}", words[2] if len(words) > 2 else "")


def _check(kind: str, blob: bytes) -> None:
    fields = _fields(blob)
    if fields[0] != kind.encode():
        raise _refusal(f"says it is {kind}, and holds another type")
    match kind.split("-"):
        case ["ssh", "ed25519"]:
            is_whole = [len(each) for each in fields[1:]] == [32]
        case ["sk", "ssh", *_]:
            is_whole = len(fields) == 3 and len(fields[1]) == 32 and bool(fields[2])
        case ["ssh", "rsa"]:
            is_whole = len(fields) == 3
            if is_whole:
                _check_rsa(int.from_bytes(fields[2], "big").bit_length())
        case _:
            curve = kind.removeprefix("sk-").removeprefix("ecdsa-sha2-").partition("@")[0]
            is_whole = len(fields) == (4 if kind.startswith("sk-") else 3)
            is_whole = is_whole and fields[1] == curve.encode() and len(fields[2]) == _CURVES[curve]
    if not is_whole:
        raise _refusal(f"does not hold what a key of type {kind} does: was a part of it cut off?")


def _check_rsa(bits: int) -> None:
    if not _SHORTEST_RSA_BITS <= bits <= _LONGEST_RSA_BITS:
        limits = f"from {_SHORTEST_RSA_BITS} to {_LONGEST_RSA_BITS}"
        raise _refusal(f"is an RSA key of {bits} bits; those {limits} are taken, and ssh-ed25519 is better")


def _fields(blob: bytes) -> list[bytes]:
    """Take strings with their lengths in front apart, all of them."""
    fields = []
    while blob:
        length = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + length:
            raise _refusal("ends too early: was a part of it cut off?")
        fields.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    if not fields:
        raise _refusal("has a type and no key")
    return fields


def _refusal(reason: str) -> InvalidSpec:
    return InvalidSpec("key", reason)
