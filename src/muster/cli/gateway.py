"""``gateway``: an HTTP front door to services, and keys for those who may use it."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from muster.cli.view import note, say
from muster.errors import SetupError

gateway = typer.Typer(name="gateway", invoke_without_command=True)

_LISTENING = "Listening"


@gateway.callback()
def run(
    context: typer.Context,
    *,
    registry: Annotated[
        str | None,
        typer.Option(envvar="MUSTER_REGISTRY", show_envvar=True, help="Where services are published."),
    ] = None,
    services: Annotated[
        list[str] | None,
        typer.Option("--service", "-s", help="Name or uuid of a service; again for more. Default: all."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", envvar="MUSTER_GATEWAY_CONFIG", help="A gateway.toml: routes and keys.")
    ] = None,
    account: Annotated[str | None, typer.Option(help="Whose services they are. Default: admin.")] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(help="Address; again for more. Default: 127.0.0.1:7680.", rich_help_panel=_LISTENING),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="How many. Default: one for each core.", rich_help_panel=_LISTENING)
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM file with the certificate chain.", rich_help_panel=_LISTENING)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="PEM file with its private key.", rich_help_panel=_LISTENING)
    ] = None,
    is_open: Annotated[
        bool,
        typer.Option("--open", help="Let everybody in who reaches the address.", rich_help_panel=_LISTENING),
    ] = False,
    access_log: Annotated[str | None, typer.Option(help="A file, - for standard output (default), or off.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Address of /metrics and /readyz, or off. Default: 127.0.0.1:7681.")
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(
            help="Address of a broker, like tls://HOST:7690. Default: one of its own; with a token, as services say."
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File that holds the broker's token (or set MUSTER_TOKEN).")
    ] = None,
) -> None:
    """Serve services to HTTP clients, balanced, until Ctrl-C.

    One --service gets everything; of several, or of all, the path says which: /SERVICE/…
    """
    if context.invoked_subcommand is not None:
        return
    from muster.processes.gateway import Asked  # noqa: PLC0415 keeps --help fast
    from muster.processes.gateway import run as run_process  # noqa: PLC0415

    if (tls_certificate is None) != (tls_key is None):
        raise SetupError("--tls-certificate and --tls-key: a certificate needs its key; give both")
    if not all(map(str.strip, services or ())):
        raise SetupError("--service: names nothing; is a variable of the shell unset?")
    flags: dict[str, Any] = {
        "registry": registry,
        "service": services or None,
        "account": account,
        "listen": listen or None,
        "processes": processes,
        "open": is_open or None,
        "access_log": access_log,
        "status": status,
        "broker": broker,
        "tls": {"certificate": tls_certificate, "key": tls_key} if tls_certificate is not None else None,
    }
    run_process(Asked(config, flags, _token(token_file)))


@gateway.command()
def key(
    name: Annotated[str, typer.Argument(help="What logs call whoever has it, like a team's name.", metavar="NAME")],
) -> None:
    """Make an API key, shown once on standard error; on standard output are the lines of gateway.toml that let it in.

    So `muster gateway key NAME >> gateway.toml` adds it. The file holds its hash only; who reads it cannot use the key.
    """
    from muster.gateway.keys import new_key  # noqa: PLC0415 keeps --help fast

    if not name.strip() or not name.isprintable() or '"' in name or "\\" in name:
        raise SetupError("NAME: has to be a text of printable characters, without quotes")
    secret, digest = new_key()
    note(f"the key, shown once: {secret}")
    say(f'\n[[key]]\nname = "{name.strip()}"\nsha256 = "{digest}"')


def _token(file: Path | None) -> str:
    if file is None:
        return os.environ.get("MUSTER_TOKEN", "").strip()
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"--token-file: {file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
