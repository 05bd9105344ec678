"""``explain``: why containers of a deployment wait for a machine, and what would make them fit."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.connection import connected
from muster.cli.names import find_deployment
from muster.cli.view import Column, Format, Output, print_json, print_table, say

if TYPE_CHECKING:
    from muster.client import Client, Remedy, Unfit


def _command(remedy: "Remedy") -> str:
    """Return what to type, where a command does it."""
    if remedy.field == "blacklist" and remedy.machine_id is not None:
        return f"muster machines unblacklist {shlex.quote(remedy.machine_id)}"
    if remedy.field == "cordoned" and remedy.machine_id is not None:
        return f"muster machines uncordon {shlex.quote(remedy.machine_id)}"
    if remedy.change:
        return "change the file, then: muster apply -f FILE"
    return ""


REJECTED: tuple[Column[tuple[str, int]], ...] = (
    Column("REJECTED BY", lambda row: row[0]),
    Column("MACHINES", lambda row: row[1], is_number=True),
)
REMEDIES: "tuple[Column[Remedy], ...]" = (
    Column("IT WOULD FIT WITH", lambda row: row.text),
    Column("MACHINES", lambda row: row.machine_num, is_number=True),
    Column("DO", _command),
)


@connected
def explain(
    client: "Client",
    name: Annotated[str, typer.Argument(help="Name or uuid, or the beginning of one.", metavar="NAME")],
    output: Output = Format.TABLE,
) -> None:
    """Tell why containers wait for a machine, and what would make them fit."""
    deployment = find_deployment(client, name)
    found = client.explanations.of(deployment.uuid)
    if output is Format.JSON:
        print_json(found)
        return
    say(f"{found.name} {found.deployment_uuid}: {found.text}")
    say(f"planner: {found.planned}")
    for each in found.unfit:
        say("")
        _tell(each)


def _tell(unfit: "Unfit") -> None:
    containers = "1 container" if unfit.container_num == 1 else f"{unfit.container_num} containers"
    say(f"{containers}: {unfit.text}")
    if unfit.rejected:
        print_table([*unfit.rejected.items(), ("in all", unfit.considered)], REJECTED)
    if unfit.remedies:
        print_table(unfit.remedies, REMEDIES)
    elif unfit.nearest_machine_id is not None:
        say(f"no single change makes it fit; {unfit.nearest_machine_id} lacks least, see above")
