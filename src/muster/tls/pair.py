"""A certificate with its key, checked to belong together: what a TLS server shows.

In: two PEM files. Out: a ``Pair``, or ``SetupError`` in one line that names the file and says what is wrong with it, so
that nothing but a pair that works ever reaches OpenSSL, whose own messages name neither.
"""

import datetime
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from muster.errors import SetupError


@dataclass(frozen=True, slots=True)
class Pair:
    """``certificate`` is the server's own; ``pem`` holds it, those that lead to a known authority, and the key.

    ``path`` is where it is from.
    """

    path: Path
    certificate: x509.Certificate
    pem: bytes = field(repr=False)

    @property
    def expires_at(self) -> datetime.datetime:
        """When clients stop accepting it."""
        return self.certificate.not_valid_after_utc


def read_pair(certificate: Path, key: Path, now: datetime.datetime) -> Pair:
    """Read and check both files.

    Raises ``SetupError``: missing, unreadable, no PEM, an encrypted key, a key that others may read or that belongs to
    another certificate, expired, not yet valid.
    """
    chain = _read_chain(certificate)
    private = _read_key(key)
    try:
        _check(certificate, key, chain, _encoded(private.public_key()), now)
        return pair_of(certificate, chain, private)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # its parts are read only when they are asked for
        raise SetupError(f"{certificate}: is not a certificate that can be used: {error}") from error


def _check(
    certificate: Path, key: Path, chain: Sequence[x509.Certificate], public: bytes, now: datetime.datetime
) -> None:
    own, *_ = chain
    own.extensions  # noqa: B018  raises what is wrong with them
    if _encoded(own.public_key()) != public:
        if any(_encoded(each.public_key()) == public for each in chain[1:]):
            raise SetupError(
                f"{certificate}: the server's own certificate must come first, before those of its issuers"
            )
        raise SetupError(f"{key}: does not match the certificate in {certificate}")
    if own.not_valid_after_utc <= now:
        raise SetupError(f"{certificate}: expired on {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if own.not_valid_before_utc > now:
        raise SetupError(f"{certificate}: is not valid before {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")


def pair_of(path: Path, chain: Sequence[x509.Certificate], key: PrivateKeyTypes) -> Pair:
    """Return a pair whose parts are known to belong together; the server's own certificate comes first."""
    pem = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)
    return Pair(path, chain[0], pem + private_pem(key))


def private_pem(key: PrivateKeyTypes) -> bytes:
    """Return a key as PEM, unencrypted: PKCS #8."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_chain(path: Path) -> list[x509.Certificate]:
    content, _ = _read(path)
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise SetupError(f"{path}: holds no certificate in PEM form") from error


def _read_key(path: Path) -> PrivateKeyTypes:
    content, status = _read(path)
    if _is_open_to_others(status):
        raise SetupError(f"{path}: others may read the key in it; run: chmod 600 {path}")
    try:
        return serialization.load_pem_private_key(_key_block(content), password=None)
    except TypeError as error:
        raise SetupError(
            f"{path}: the key is encrypted, and nobody is there to type its password at a start"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SetupError(f"{path}: holds no private key in PEM form") from error


def _key_block(content: bytes) -> bytes:
    """Skip what stands before the key: files that hold the certificate too are common."""
    end = content.find(b"PRIVATE KEY-----")
    start = content.rfind(b"-----BEGIN", 0, max(end, 0))
    return content[start:] if start >= 0 else content


def _is_open_to_others(status: os.stat_result) -> bool:
    """Tell whether more people may read a key than should: PostgreSQL's rule.

    A key of root may be readable by a group: Debian's ``ssl-cert`` is for servers that run as somebody else.
    """
    allowed = stat.S_IRWXU | stat.S_IRGRP if status.st_uid == 0 else stat.S_IRWXU
    return bool(stat.S_IMODE(status.st_mode) & ~allowed)


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    try:
        with path.open("rb") as file:
            return file.read(), os.fstat(file.fileno())
    except FileNotFoundError as error:
        raise SetupError(f"{path}: there is no such file") from error
    except OSError as error:
        raise SetupError(f"{path}: cannot be read: {error.strerror}") from error


def _encoded(key: object) -> bytes:
    """Return a public key's bytes: keys of unequal kinds compare, too."""
    assert hasattr(key, "public_bytes")
    found = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert isinstance(found, bytes)
    return found
