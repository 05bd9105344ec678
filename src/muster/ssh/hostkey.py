"""The gateway's host key: one Ed25519 key for all containers, so that a client pins one key for the whole installation.

In: the home folder. Out: ``<home>/ssh_host_key`` in OpenSSH's form, readable by its owner only, and the same public as
``ssh_host_key.pub``, for people. Whoever needs it first makes it, server or ingress, and two that make it at once agree
on one: a link fails where somebody was faster. Nothing replaces it, since every client would warn of an attack.
"""

import contextlib
import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from muster.errors import SetupError
from muster.home import write_text

HOST_KEY = "ssh_host_key"


def ensure_host_key(home: Path) -> bytes:
    """Return the private key in OpenSSH's form; the first who asks draws it. Raises ``SetupError``."""
    path = home / HOST_KEY
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        text = _draw(path)
    except OSError as error:
        raise SetupError(f"{path}: cannot be read: {error.strerror}") from error
    public = path.with_name(f"{HOST_KEY}.pub")
    line = f"{_public(path, text)} muster\n"
    if not public.exists() or public.read_text(encoding="ascii", errors="replace") != line:
        write_text(public, line)
    return text


def public_host_key(home: Path) -> str:
    """Return the public key as one line, type and base64. Raises ``SetupError``."""
    return _public(home / HOST_KEY, ensure_host_key(home))


def _draw(path: Path) -> bytes:
    drawn = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    write_text(draft, drawn.decode("ascii"))
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
    return path.read_bytes()


def _public(path: Path, text: bytes) -> str:
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SetupError(f"{path}: others may read the key in it; run: chmod 600 {path}")
        key = load_ssh_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SetupError(f"{path}: is no private key without a passphrase: {error}; restore it from a copy") from error
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
