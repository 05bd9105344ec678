"""``pool ls``, ``pool rm`` and ``stats``: ended containers that wait for reuse, and what reuse was good for."""

from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.connection import connected
from muster.cli.view import Column, Format, Output, age, print_json, say, show, until
from muster.errors import InvalidSpec, NotFound

if TYPE_CHECKING:
    from muster.client import Client, PooledContainer

POOL: "tuple[Column[PooledContainer], ...]" = (
    Column("CONTAINER", lambda row: row.uuid),
    Column("DEPLOYMENT", lambda row: row.deployment_name),
    Column("MACHINE", lambda row: row.machine_id),
    Column("DATA CENTER", lambda row: row.data_center),
    Column("GPU", lambda row: row.gpu_name),
    Column("INDICES", lambda row: ",".join(map(str, row.gpu_indices))),
    Column("IMAGE", lambda row: row.image_reference or row.image_uuid),
    Column("REASON", lambda row: row.reason),
    Column("STOPPED", lambda row: age(row.stopped_at), is_number=True),
    Column("EXPIRES IN", lambda row: until(row.expires_at), is_number=True),
)
ACCOUNT: "Column[PooledContainer]" = Column("ACCOUNT", lambda row: row.account)

pool = typer.Typer(
    name="pool", help="See and clear what ended containers left for the next start.", no_args_is_help=True
)

OfAll = Annotated[bool, typer.Option("--all", "-a", help="Of all accounts (admins only).")]


@pool.command(name="ls")
@connected
def list_pool(client: "Client", of_all: OfAll = False, output: Output = Format.TABLE) -> None:
    """List ended containers that wait for reuse, most recently stopped first."""
    columns = (ACCOUNT, *POOL) if of_all else POOL
    show(client.pool(of_all_accounts=of_all), columns, output, empty="nothing waits for reuse")


@pool.command(name="rm")
@connected
def remove(
    client: "Client",
    container: Annotated[str, typer.Argument(help="Uuid of the container, or its beginning.", metavar="CONTAINER")],
    output: Output = Format.TABLE,
) -> None:
    """Take an ended container out of the pool, which destroys its files."""
    left = client.leave_pool(_found(client, container))
    if output is Format.JSON:
        print_json({"action": "remove", "container_uuid": left.uuid})
    else:
        say(f"{left.uuid} of {left.deployment_name}: its files are being destroyed")


@connected
def stats(client: "Client", of_all: OfAll = False, output: Output = Format.TABLE) -> None:
    """Tell how often a start reused an ended container, and the time that saved."""
    found = client.reuse_stats(of_all_accounts=of_all)
    if output is Format.JSON:
        print_json(found)
        return
    say(f"starts that might have reused a container: {found.starts}")
    say(f"starts that did: {found.reuses} ({found.hit_rate:.0%})")
    say(f"saved against fresh starts of the same images: {_duration(found.seconds_saved)}")
    say(f"containers that wait for reuse: {found.pooled}")


def _found(client: "Client", name: str) -> str:
    matches = [each.uuid for each in client.pool() if name and each.uuid.startswith(name)]
    if name in matches:
        return name
    if not matches:
        raise NotFound("container in the pool", name)
    if len(matches) > 1:
        raise InvalidSpec(name, f"may mean {len(matches)} containers, name one by its uuid: {', '.join(matches)}")
    return matches[0]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"
