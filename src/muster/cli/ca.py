"""``ca export`` and ``ca show``: the authority to trust at containers' HTTPS addresses, for all but the SDK."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.cli.connection import connected
from muster.cli.view import Column, Format, Output, note, say, show
from muster.errors import SetupError

if TYPE_CHECKING:
    from muster.client import Client

ca = typer.Typer(name="ca", help="Whom to trust at the HTTPS addresses of containers.", no_args_is_help=True)

_SHORT = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}


@dataclass(frozen=True, slots=True)
class Shown:
    """What tells one authority from another. The fingerprint is as ``openssl x509 -fingerprint -sha256`` writes it."""

    subject: str
    sha256: str
    expires_at: datetime.datetime


AUTHORITIES: tuple[Column[Shown], ...] = (
    Column("SUBJECT", lambda row: row.subject),
    Column("EXPIRES", lambda row: row.expires_at.date().isoformat()),
    Column("SHA-256", lambda row: row.sha256),
)


@ca.command()
@connected
def export(
    client: "Client",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write this file instead of printing.", metavar="FILE")
    ] = None,
    is_forced: Annotated[bool, typer.Option("--force", "-f", help="Replace the file if there is one.")] = False,
) -> None:
    """Print the authority's certificate as PEM: for `curl --cacert`, browsers, `requests`."""
    pem = client.authority.pem()
    if out is None:
        say(pem.rstrip("\n"))
        return
    try:
        with out.open("w" if is_forced else "x", encoding="ascii") as file:
            file.write(pem)
    except FileExistsError as error:
        raise SetupError(f"{out}: exists already; replace it with --force") from error
    except OSError as error:
        raise SetupError(f"{out}: cannot be written: {error.strerror}") from error
    note(f"wrote {out}")


@ca.command(name="show")
@connected
def show_authority(client: "Client", output: Output = Format.TABLE) -> None:
    """Show the authority's name, its end, and the fingerprint to compare before it is trusted."""
    show(authorities(client.authority.pem()), AUTHORITIES, output, empty="no authority")


def authorities(pem: str) -> list[Shown]:
    """Return the authorities in a PEM text, read by OpenSSL. Raises ``SetupError`` if there are none."""
    import hashlib  # noqa: PLC0415 keeps --help fast
    import ssl  # noqa: PLC0415

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise SetupError("the server's answer holds no certificate") from error
    told: list[dict[str, Any]] = list(context.get_ca_certs())  # its type allows what OpenSSL never tells
    if not told:
        raise SetupError("what the server tells to trust is no authority but a server's own certificate")
    return [
        Shown(
            subject=",".join(f"{_SHORT.get(name, name)}={value}" for part in each["subject"] for name, value in part),
            sha256=hashlib.sha256(encoded).digest().hex(":").upper(),
            expires_at=datetime.datetime.fromtimestamp(ssl.cert_time_to_seconds(each["notAfter"]), datetime.UTC),
        )
        for each, encoded in zip(told, context.get_ca_certs(binary_form=True), strict=True)
    ]
