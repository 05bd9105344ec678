"""``up``, ``server``, ``ingress``, ``down`` and ``config show``: what runs on this host, and how it is set."""

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.cli.view import Column, Format, Output, print_json, print_table
from muster.errors import SetupError

if TYPE_CHECKING:
    from muster.config import Settings

Config = Annotated[Path | None, typer.Option("--config", help="File to read in place of HOME/muster.toml.")]
Home = Annotated[Path | None, typer.Option("--home", help="Folder for everything that is kept (MUSTER_HOME).")]
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on (MUSTER_HOST; default 127.0.0.1).")]
Port = Annotated[int | None, typer.Option("--port", help="Port of the API (MUSTER_PORT; default 7600).")]
Engine = Annotated[str | None, typer.Option("--engine", help="auto, local or docker (MUSTER_ENGINE; default auto).")]
FakeGpus = Annotated[
    str | None,
    typer.Option("--fake-gpus", help="Machines to pretend, like '2x4xRTX 4090@lab-a' (MUSTER_FAKE_GPUS)."),
]

IngressHost = Annotated[
    str | None,
    typer.Option("--ingress-host", help="Address that containers' own listen on (MUSTER_INGRESS_HOST)."),
]
IngressDomain = Annotated[
    str | None,
    typer.Option("--ingress-domain", help="Domain whose names all lead here (MUSTER_INGRESS_DOMAIN)."),
]
StatusPort = Annotated[
    int | None,
    typer.Option("--ingress-status-port", help="Port of /metrics (MUSTER_INGRESS_STATUS_PORT; default 7610)."),
]

config = typer.Typer(name="config", help="Show the settings.", no_args_is_help=True)


def up(
    *,
    home: Home = None,
    port: Port = None,
    host: Host = None,
    engine: Engine = None,
    fake_gpus: FakeGpus = None,
    config_file: Config = None,
) -> None:
    """Run Muster on this host; Ctrl-C stops it, containers go on."""
    _run("up", _settings(config_file, home=home, port=port, host=host, engine=engine, fake_gpus=fake_gpus))


def server(
    *,
    home: Home = None,
    port: Port = None,
    host: Host = None,
    engine: Engine = None,
    fake_gpus: FakeGpus = None,
    config_file: Config = None,
) -> None:
    """Run the server alone, in the foreground."""
    _run("server", _settings(config_file, home=home, port=port, host=host, engine=engine, fake_gpus=fake_gpus))


def ingress(
    *,
    home: Home = None,
    ingress_host: IngressHost = None,
    ingress_domain: IngressDomain = None,
    status_port: StatusPort = None,
    config_file: Config = None,
) -> None:
    """Run the ingress alone, in the foreground: containers' addresses and SSH logins."""
    flags = {"ingress_host": ingress_host, "ingress_domain": ingress_domain, "ingress_status_port": status_port}
    _run("ingress", _settings(config_file, home=home, **flags))


def down(
    home: Home = None,
    purges: Annotated[
        bool, typer.Option("--purge", help="Also remove what ended containers left behind: their files and logs.")
    ] = False,
    config_file: Config = None,
) -> None:
    """End server and containers of this host.

    The next `up` starts what is still wanted.
    """
    _run("down", _settings(config_file, home=home), purges=purges)


Shown = tuple[str, Any, str]
COLUMNS: tuple[Column[Shown], ...] = (
    Column("SETTING", lambda row: row[0]),
    Column("VALUE", lambda row: json.dumps(row[1], ensure_ascii=False) if isinstance(row[1], dict | list) else row[1]),
    Column("FROM", lambda row: row[2]),
)


@config.command()
def show(home: Home = None, config_file: Config = None, output: Output = Format.TABLE) -> None:
    """Show each setting and where it comes from; secrets are masked."""
    settings = _settings(config_file, home=home).shown()
    if output is Format.JSON:
        print_json({name: {"value": value, "from": origin} for name, (value, origin) in settings.items()})
        return
    print_table([(name, value, origin) for name, (value, origin) in settings.items()], COLUMNS)


def _run(process: str, settings: "Settings", **options: bool) -> None:
    """Be one of the processes; they are loaded only now, since the server's libraries are slow to load and optional."""
    try:
        module = import_module(f"muster.processes.{process}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("muster"):
            raise
        raise SetupError(
            f"muster {process} needs: pip install 'muster-gpu[server]' ({error.name} is missing)"
        ) from error
    module.run(settings, **options)


def _settings(config_file: Path | None, **flags: Any) -> "Settings":
    from muster.config import load_settings  # noqa: PLC0415 pydantic takes longer to load than a --help to print

    return load_settings(flags, config=config_file)
