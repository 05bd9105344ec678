"""Names in certificates: host names, wildcards and addresses, and whether a certificate is valid for them. Pure."""

import ipaddress
import re
from collections.abc import Iterable

from cryptography import x509

from muster.errors import SetupError

_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def general_name(name: str) -> x509.GeneralName:
    """Return a host name, ``*.domain`` or IP address (also in brackets) as certificates hold it.

    Raises ``SetupError`` for what can be neither.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]").partition("%")[0]))
    except ValueError:
        pass
    try:
        is_wildcard = name.startswith("*.")
        host = name.removeprefix("*.").removesuffix(".").encode("idna").decode("ascii").lower()
    except UnicodeError as error:
        raise SetupError(f"{name!r}: is neither a host name nor an IP address: no certificate can be for it") from error
    if not _HOST.fullmatch(host):
        raise SetupError(f"{name!r}: is neither a host name nor an IP address: no certificate can be for it")
    return x509.DNSName(f"*.{host}" if is_wildcard else host)


def uncovered(certificate: x509.Certificate, names: Iterable[x509.GeneralName]) -> list[x509.GeneralName]:
    """Return those that a client would not accept the certificate for; a wildcard stands for one label."""
    try:
        held = set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        held = set()
    return [name for name in names if name not in held and _wildcard_of(name) not in held]


def _wildcard_of(name: x509.GeneralName) -> x509.GeneralName | None:
    if not isinstance(name, x509.DNSName):
        return None
    first, dot, rest = name.value.partition(".")
    return x509.DNSName(f"*.{rest}") if dot and first != "*" else None
