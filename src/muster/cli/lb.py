"""``lb show``: how a process that balances spreads its requests, once or live.

That is known in the process alone, so URL is an address that the process was told to answer at (``MUSTER_STATUS``).
``balanced.py`` does it; it is loaded only then.
"""

from typing import Annotated

import typer

from muster.cli.spec.values import duration
from muster.cli.view import Format, Output

SHORTEST_SECONDS, LONGEST_SECONDS = 0.1, 3600.0

lb = typer.Typer(name="lb", help="How a process that balances spreads its requests.", no_args_is_help=True)


def _interval(text: str) -> float:
    try:
        seconds = duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise typer.BadParameter("has to be between 100ms and 1h")
    return seconds


@lb.callback()
def _lb() -> None:
    """Keep ``show`` a command of ``lb``, which has no other yet."""


@lb.command()
def show(
    url: Annotated[
        str, typer.Argument(help="Status address of the process, like http://127.0.0.1:9464.", metavar="URL")
    ],
    service: Annotated[
        str | None, typer.Argument(help="Only this one: its name, or all of ACCOUNT/NAME/PORT.", metavar="SERVICE")
    ] = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C.")] = False,
    interval: Annotated[
        float | None,
        typer.Option(parser=_interval, metavar="TIME", help="How often to look; implies --watch.  [default: 1s]"),
    ] = None,
    output: Output = Format.TABLE,
    json: Annotated[bool, typer.Option("--json", help="The same as -o json.")] = False,
) -> None:
    """Show replicas, queue, totals and what was learned of costs.

    The process answers when it was started with MUSTER_STATUS=127.0.0.1:9464, or calls muster.connect(…, status=…).
    """
    from muster.cli.balanced import show_services  # noqa: PLC0415 keeps --help fast

    every = (interval or 1.0) if watch or interval is not None else None
    show_services(url, service, Format.JSON if json else output, every_seconds=every)
