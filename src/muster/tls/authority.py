"""The installation's own certificate authority: two files of the home, made once, that sign what the ingress shows.

Out: ``<home>/tls/ca.key``, for its owner only, and ``ca.pem``, which clients are given to trust. Each is written whole
and only where there is none yet, so whoever is first makes them for all, and a crash between the two is mended by the
next: a key without a certificate gets one. A certificate without its key is told, never replaced by itself, because
clients hold it.

The authority signs no other authority (path length 0). Its subject has a part that is drawn, because clients look
authorities up by subject and a host may trust two installations. It carries what strict verifiers ask for (Python 3.13
and Go: key identifiers, critical key usage). Refused: name constraints, since the names of a host change and an
authority that was handed out cannot.
"""

import contextlib
import datetime
import os
import secrets
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from muster.errors import SetupError

FOLDER = "tls"
CA_KEY = "ca.key"
CA_PEM = "ca.pem"
LIFE = datetime.timedelta(days=3652)
"""Ten years: it is installed by hand on other computers, so replacing it is work for people."""
BACKDATED = datetime.timedelta(hours=1)
"""How far a client's clock may be behind ours."""


@dataclass(frozen=True, slots=True)
class Authority:
    """Whoever has this can sign. ``pem`` is what may be told to everybody."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    pem: str


def ensure_authority(home: Path, *, now: datetime.datetime | None = None) -> Authority:
    """Return the authority of the home, made with the first call of any process.

    Raises ``SetupError``, one line that names the file: unreadable, not ours, key and certificate that do not belong
    together, expired.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    folder = home / FOLDER
    key_path, pem_path = folder / CA_KEY, folder / CA_PEM
    had_pem = pem_path.exists()  # first: the key comes before it, so this cannot be another process at work
    if not key_path.exists():
        if had_pem:
            raise SetupError(
                f"{key_path}: is gone; restore it, or remove {pem_path} too: then clients need the new one"
            )
        _write_once(key_path, _private_pem(ec.generate_private_key(ec.SECP256R1())), mode=stat.S_IRUSR | stat.S_IWUSR)
    key = _read_key(key_path)
    if not pem_path.exists():
        pem = _self_signed(key, now).public_bytes(serialization.Encoding.PEM)
        _write_once(pem_path, pem, mode=stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH)
    text = _read(pem_path)
    try:
        certificate = x509.load_pem_x509_certificate(text.encode())
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise SetupError(f"{pem_path}: holds no certificate authority of ours") from error
    if certificate.public_key() != key.public_key():
        raise SetupError(f"{pem_path}: does not belong to {key_path}; restore the one that does")
    if certificate.not_valid_after_utc <= now:
        ended = certificate.not_valid_after_utc.date().isoformat()
        raise SetupError(f"{pem_path}: expired on {ended}; remove the folder {folder}: then clients need the new one")
    return Authority(certificate, key, text)


def ca_pem(home: Path) -> str:
    """Return the authority's certificate, which is made if need be. Raises ``SetupError``."""
    path = home / FOLDER / CA_PEM
    return _read(path) if path.exists() else ensure_authority(home).pem


def _self_signed(key: ec.EllipticCurvePrivateKey, now: datetime.datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Muster {secrets.token_hex(4)} CA")])
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Return what a key is for: to sign certificates, or handshakes."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    text = _read(path)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SetupError(f"{path}: others may read the key in it; run: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise SetupError(f"{path}: holds no key of ours; restore the file") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SetupError(f"{path}: holds no key of ours; restore the file")
    return key


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except UnicodeDecodeError as error:
        raise SetupError(f"{path}: is not PEM; restore the file") from error
    except OSError as error:
        raise SetupError(f"{path}: cannot be read: {error.strerror}") from error


def _write_once(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file whole, unless there is one: then somebody was faster, and theirs stays."""
    draft: str | None = None
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename it fails where somebody was faster
    except OSError as error:
        raise SetupError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        if draft is not None:
            Path(draft).unlink()
