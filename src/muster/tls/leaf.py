"""The certificate that the installation's own authority signs for a process: made, kept, and renewed in time.

It lies in ``<home>/tls``, the ingress's in ``server.pem`` and ``server.key``, so that a restarted one shows the same.
Processes that serve other names keep theirs in files of their own, or each would replace the other's. Whatever is
amiss with the two files (half written, of another authority, lost) is mended by signing another: nobody holds it, only
the authority is trusted.
"""

import datetime
from collections.abc import Collection, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from muster.errors import SetupError
from muster.home import write_text
from muster.tls.authority import BACKDATED, FOLDER, Authority, ensure_authority, key_usage
from muster.tls.names import general_name, uncovered
from muster.tls.pair import Pair, pair_of, private_pem, read_pair

SERVER = "server"
SERVER_PEM, SERVER_KEY = f"{SERVER}.pem", f"{SERVER}.key"
LIFE = datetime.timedelta(days=90)
"""That of public authorities, so that renewing is routine and no client finds it too long (Apple's limit is 398)."""
RENEW_AT = 1 / 3
"""The part of its life that is left when it is renewed: a month in which a failed renewal can be mended."""
ALWAYS = ("localhost", "127.0.0.1", "::1")


class OwnLeaf:
    """The own certificate, for names that may grow; ``stem`` is what its files are called."""

    def __init__(self, home: Path, names: Collection[str], stem: str = SERVER) -> None:
        self._home = home
        self._pem, self._key = (home / FOLDER / f"{stem}.{kind}" for kind in ("pem", "key"))
        self._names = list(dict.fromkeys(general_name(name) for name in (*names, *ALWAYS)))
        self._pair: Pair | None = None

    def open(self, now: datetime.datetime) -> Pair:
        """Return the one of the last start if it still does, else a new one. Raises ``SetupError``."""
        authority = ensure_authority(self._home, now=now)
        self._pair = self._kept(authority, now)
        return self._pair or self._issue(authority, now)

    async def look(self, now: datetime.datetime) -> Pair:
        """Return what is to be in force. Raises ``SetupError`` where a new one is needed and cannot be made."""
        if self._pair is not None and self._does(self._pair.certificate, now):
            return self._pair
        return self._issue(ensure_authority(self._home, now=now), now)

    def add_names(self, names: Collection[str], now: datetime.datetime) -> Pair:
        """Return one that is valid for these names too. Raises ``SetupError``."""
        found = [general_name(name) for name in names]
        self._names += [name for name in dict.fromkeys(found) if name not in self._names]
        if self._pair is not None and not uncovered(self._pair.certificate, self._names):
            return self._pair
        return self._issue(ensure_authority(self._home, now=now), now)

    def _kept(self, authority: Authority, now: datetime.datetime) -> Pair | None:
        try:
            pair = read_pair(self._pem, self._key, now)
            pair.certificate.verify_directly_issued_by(authority.certificate)
        except (SetupError, ValueError, TypeError, InvalidSignature):
            return None
        return pair if self._does(pair.certificate, now) else None

    def _does(self, certificate: x509.Certificate, now: datetime.datetime) -> bool:
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        return certificate.not_valid_after_utc - now > life * RENEW_AT and not uncovered(certificate, self._names)

    def _issue(self, authority: Authority, now: datetime.datetime) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _signed(authority, key.public_key(), self._names, now)
        pair = pair_of(self._pem, [certificate], key)
        # A crash between the two leaves a key without its certificate: the next start finds them not to match.
        write_text(self._key, private_pem(key).decode())
        write_text(self._pem, certificate.public_bytes(serialization.Encoding.PEM).decode())
        self._pair = pair
        return pair


def _signed(
    authority: Authority, public: ec.EllipticCurvePublicKey, names: Sequence[x509.GeneralName], now: datetime.datetime
) -> x509.Certificate:
    issuer = authority.certificate
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Muster ingress")]))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - BACKDATED, issuer.not_valid_before_utc))
        .not_valid_after(min(now + LIFE, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
