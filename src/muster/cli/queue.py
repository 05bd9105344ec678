"""``queue show`` and ``queue cancel``: who waits at a service's broker, and taking requests out of its queue.

Where the broker is stands in the published set: of a registry (``--registry``, ``MUSTER_REGISTRY``), or of the API.
``queued.py`` does it; it is loaded only then.
"""

from typing import Annotated

import typer

from muster.cli.connection import Api, Home, TokenFile
from muster.cli.spec.values import duration
from muster.cli.view import Format, Output

queue = typer.Typer(name="queue", help="Who waits for a service, and taking them out.", no_args_is_help=True)

Service = Annotated[str, typer.Argument(help="Name or uuid of a deployment.", metavar="SERVICE")]
Port = Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the container.")]
Account = Annotated[str, typer.Option("--account", help="Whose service it is, where a registry is read.")]
Registry = Annotated[
    str | None,
    typer.Option("--registry", envvar="MUSTER_REGISTRY", help="Registry that names the broker.  [default: the API]"),
]
Broker = Annotated[
    str | None, typer.Option("--broker", help="The broker itself, like tls://HOST:7690; several with commas.")
]


def _age(text: str) -> float:
    try:
        return duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@queue.command("show")
def show(
    service: Service,
    *,
    port: Port = 6006,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again each second, until Ctrl-C.")] = False,
    output: Output = Format.TABLE,
    registry: Registry = None,
    broker: Broker = None,
    account: Account = "admin",
    api: Api = None,
    token_file: TokenFile = None,
    home: Home = None,
) -> None:
    """Show who waits, by tenant and age, and how long a request would wait."""
    from muster.cli.queued import Asked, show_queue  # noqa: PLC0415 keeps --help fast

    asked = Asked(service, port, account, registry, broker, api=api, token_file=token_file, home=home)
    show_queue(asked, output, is_watching=watch)


@queue.command("cancel")
def cancel(
    service: Service,
    *,
    ask: Annotated[int | None, typer.Option("--ask", min=1, help="This one: a number that queue show gave.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Those of a tenant; '' is who named none.")] = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", parser=_age, metavar="TIME", help="Those that wait for longer.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All that wait.")] = False,
    port: Port = 6006,
    output: Output = Format.TABLE,
    registry: Registry = None,
    broker: Broker = None,
    account: Account = "admin",
    api: Api = None,
    token_file: TokenFile = None,
    home: Home = None,
) -> None:
    """Take waiting requests out of the queue; their callers get an error at once, and nothing was sent.

    Of several options all have to hold. What runs is not touched.
    """
    from muster.cli.queued import Asked, cancel_asks  # noqa: PLC0415 keeps --help fast

    given = {"ask": ask, "tenant": tenant, "older_than": older_than, "all": every or None}
    conditions = {name: value for name, value in given.items() if value is not None}
    if not conditions:
        raise typer.BadParameter("say which: --ask N, --tenant T, --older-than TIME or --all")
    asked = Asked(service, port, account, registry, broker, api=api, token_file=token_file, home=home)
    cancel_asks(asked, conditions, output)
