"""``broker``: one queue for all clients of a registry's services, as a process of its own."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from muster.errors import SetupError

_TLS, _WHO = "Certificate", "Who may use it"


def broker(
    *,
    registry: Annotated[
        str | None,
        typer.Option(envvar="MUSTER_REGISTRY", show_envvar=True, help="Whose services: file://, redis:// or etcd://"),
    ] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            help="tls://HOST:PORT, tcp://… on loopback, or unix:///PATH; again for more.  [default: tls://127.0.0.1:7690]"
        ),
    ] = None,
    advertise: Annotated[str | None, typer.Option(help="By which address clients reach it.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Allow tcp:// beyond this host: no TLS.")] = False,
    queue: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many requests may wait, per service.")] = 4096,
    status: Annotated[
        str | None, typer.Option(help="Address like 127.0.0.1:9464 for `muster lb show` and Prometheus.")
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option("--tls-certificate", help="PEM file. Default: signed by the home's own.", rich_help_panel=_TLS),
    ] = None,
    key: Annotated[Path | None, typer.Option("--tls-key", help="PEM file of its key.", rich_help_panel=_TLS)] = None,
    api: Annotated[
        str | None,
        typer.Option(
            "--api", "-A", envvar="MUSTER_API", help="Ask this Muster whose a token is.", rich_help_panel=_WHO
        ),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", help="Authority of the API's certificate.", rich_help_panel=_WHO)
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with one token, for all clients.", rich_help_panel=_WHO)
    ] = None,
    account: Annotated[
        str, typer.Option(help="Whose that token is: the first part of services' names.", rich_help_panel=_WHO)
    ] = "admin",
    home: Annotated[
        Path | None, typer.Option("--home", envvar="MUSTER_HOME", help="Folder of the own certificate authority.")
    ] = None,
) -> None:
    """Give all clients of a registry's services one queue, until Ctrl-C.

    Run two for one registry: one serves, the other takes over when it dies. `muster server` has one inside. Clients
    learn the address from whoever publishes the services (`muster watch --broker-url`, broker_url in muster.toml).
    """
    from muster.home import absolute, default_home  # noqa: PLC0415 keeps --help fast
    from muster.processes.broker import LISTEN, Brokered, run  # noqa: PLC0415

    if not registry:
        raise SetupError("no registry: use --registry, or set MUSTER_REGISTRY, like redis://HOST or file:///FOLDER")
    if (certificate is None) != (key is None):
        raise SetupError("--tls-certificate and --tls-key: a certificate needs its key; give both")
    if not account.strip():
        raise SetupError("--account: names nobody; is a variable of the shell unset?")
    run(
        Brokered(
            registry=registry,
            home=absolute(home) if home else default_home(os.environ),
            listen=tuple(listen) if listen is not None else LISTEN,
            advertise=advertise,
            certificate=certificate,
            key=key,
            api=api,
            ca_file=ca,
            token=None if token_file is None else _token(token_file),
            account=account,
            queue_capacity=queue,
            status=status,
            allows_plain=plain,
        ),
        partial(typer.echo),
    )


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise SetupError(f"--token-file: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SetupError(f"--token-file: {path} is no text") from error
    if not token or " " in token or not token.isprintable():
        raise SetupError(f"--token-file: {path} holds no token; a token is one word of ASCII characters")
    return token
