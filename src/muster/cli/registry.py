"""``registry show`` and ``registry watch``: what is published of a service, who keeps it up, and why some are missing.

They read a registry and need no server. Its URL is the first argument, ``--registry`` or ``MUSTER_REGISTRY``: a URL
with a password belongs into the environment, where other users of the host do not see it.
``published.py`` does it; it is loaded only then.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.view import Format, Output

if TYPE_CHECKING:
    from muster.model.endpoint import ServiceKey

DEFAULT_ACCOUNT = "admin"
registry = typer.Typer(
    name="registry", help="What is published of a service, and who keeps it up.", no_args_is_help=True
)

Names = Annotated[
    list[str], typer.Argument(help="Registry, then the name or uuid of a service.", metavar="[URL] SERVICE")
]
Url = Annotated[
    str | None,
    typer.Option("--registry", envvar="MUSTER_REGISTRY", help="URL of the registry, where it is no argument."),
]
Port = Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the container.")]
Account = Annotated[
    str | None,
    typer.Option("--account", help="Whose service it is; through muster+https:// the token's.  [default: admin]"),
]


@registry.command("show")
def show(
    names: Names,
    *,
    url: Url = None,
    port: Port = 6006,
    account: Account = None,
    output: Output = Format.TABLE,
) -> None:
    """Show who serves a service, and who does not.

    Also why not, since when that is stale, and who publishes it.
    """
    import asyncio  # noqa: PLC0415 keeps --help fast

    from muster.cli.published import show_set  # noqa: PLC0415

    asyncio.run(show_set(*_addressed(names, url, account, port), output))


@registry.command("watch")
def watch(
    names: Names,
    *,
    url: Url = None,
    port: Port = 6006,
    account: Account = None,
    output: Output = Format.TABLE,
) -> None:
    """Show each change of a service, until Ctrl-C.

    With -o json each line is a whole set, as the registry holds it.
    """
    import asyncio  # noqa: PLC0415 keeps --help fast

    from muster.cli.published import watch_set  # noqa: PLC0415

    asyncio.run(watch_set(*_addressed(names, url, account, port), output))


def _addressed(names: list[str], url: str | None, account: str | None, port: int) -> "tuple[str, ServiceKey]":
    from muster.model.endpoint import ServiceKey  # noqa: PLC0415 keeps --help fast

    if len(names) > 2:
        raise typer.BadParameter("one URL and one SERVICE can be given", param_hint="[URL] SERVICE")
    *first, service = names
    found = first[0] if first else url
    if not found:
        raise typer.BadParameter(
            "which registry? Write URL SERVICE, or set --registry or MUSTER_REGISTRY", param_hint="[URL] SERVICE"
        )
    if account is None:
        account = "" if found.startswith("muster+") else DEFAULT_ACCOUNT
    return found, ServiceKey(account, service, port)
