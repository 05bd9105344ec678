"""``ps``, ``scale``, ``stop``, ``delete``: deployments that exist, and one container of them to be stopped."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.connection import connected
from muster.cli.containers import is_lacking
from muster.cli.names import find_container, find_deployment
from muster.cli.prompt import Yes, agreed
from muster.cli.view import Column, Format, Output, age, note, print_json, report, say, show, status_style, yuan

if TYPE_CHECKING:
    from muster.client import Client, Deployment

Name = Annotated[str, typer.Argument(help="Name or uuid, or the beginning of one.", metavar="NAME")]


def _ready(deployment: "Deployment") -> str:
    return f"{deployment.ready_num}/{deployment.replica_num if deployment.status == 'running' else 0}"


def _gpu(deployment: "Deployment") -> str:
    return f"{deployment.gpu_num} x {' | '.join(deployment.gpu_names) or 'any'}"


COLUMNS: "tuple[Column[Deployment], ...]" = (
    Column("NAME", lambda row: row.name),
    Column("UUID", lambda row: row.uuid),
    Column("TYPE", lambda row: row.type),
    Column("STATUS", lambda row: row.status, style=status_style),
    Column("READY", _ready, is_number=True),
    Column("STARTING", lambda row: row.starting_num, is_number=True),
    Column("RUNNING", lambda row: row.running_num, is_number=True),
    Column("FINISHED", lambda row: row.finished_num, is_number=True),
    Column("GPU", _gpu),
    Column("YUAN/H", lambda row: yuan(row.price_milliyuan), is_number=True),
    Column("AGE", lambda row: age(row.created_at), is_number=True),
)


@connected
def ps(
    client: "Client",
    is_all: Annotated[bool, typer.Option("--all", "-a", help="Stopped ones too.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """List deployments."""
    rows = list(client.deployments(status=None if is_all else "running"))
    hint = "no deployments" if is_all else "no running deployments (stopped ones: -a)"
    show(rows, COLUMNS, output, empty=hint)
    for each in rows if output is Format.TABLE else ():
        if is_lacking(each):
            live = each.starting_num + each.running_num
            note(f"{each.name}: {live} of {each.replica_num} live; why: muster explain {each.uuid}")


@connected
def scale(
    client: "Client",
    name: Name,
    replicas: Annotated[int, typer.Argument(min=0, help="How many replicas from now on.", metavar="N")],
    output: Output = Format.TABLE,
) -> None:
    """Change a deployment's number of replicas."""
    deployment = find_deployment(client, name)
    client.scale_deployment(deployment.uuid, replicas)
    text = f"{deployment.replica_num} -> {replicas} replicas"
    report("scale", deployment.name, deployment.uuid, text, output)


@connected
def stop(
    client: "Client",
    name: Annotated[str | None, typer.Argument(help="Deployment to stop for good.", metavar="NAME")] = None,
    *,
    container: Annotated[
        str | None, typer.Option("--container", help="Stop this container only; another takes its place.")
    ] = None,
    decrease: Annotated[bool, typer.Option("--decrease", help="With --container: let none take its place.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="With --container: never reuse its files.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Stop a deployment for good, or one container of it."""
    if (name is None) == (container is None):
        raise typer.BadParameter("name either a deployment, or a container with --container")
    if container is not None:
        uuid = find_container(client, container).uuid
        client.stop_container(uuid, decrease_one_replica_num=decrease, no_cache=no_cache)
        if output is Format.JSON:
            print_json({"action": "stop", "container_uuid": uuid})
        else:
            say(f"container {uuid} is being stopped")
        return
    if decrease or no_cache:
        raise typer.BadParameter("--decrease and --no-cache go with --container")
    deployment = find_deployment(client, name or "")
    client.stop_deployment(deployment.uuid)
    report("stop", deployment.name, deployment.uuid, "being stopped", output)


@connected
def delete(client: "Client", name: Name, yes: Yes = False, output: Output = Format.TABLE) -> None:
    """Stop and delete a deployment."""
    deployment = find_deployment(client, name)
    live = deployment.starting_num + deployment.running_num
    if not agreed(f"Delete {deployment.name} {deployment.uuid} with {live} live containers?", yes=yes):
        sys.exit(1)
    client.delete_deployment(deployment.uuid)
    report("delete", deployment.name, deployment.uuid, "deleted", output)
