"""``rollout``: how far an edit is, and what to do about it. Edits are made by ``apply``.

``status --watch`` follows until the version is good (exit code 0), has failed or is paused (1), for scripts that wait.
"""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.connection import connected
from muster.cli.names import find_deployment
from muster.cli.prompt import Yes, agreed
from muster.cli.view import Column, Format, Output, age, print_json, print_table, report, say, show, status_style
from muster.errors import InvalidSpec

if TYPE_CHECKING:
    from muster.client import Client, Rollout, Version

POLL_SECONDS = 0.5

rollout = typer.Typer(name="rollout", help="Follow, hold and take back edits of deployments.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name or uuid, or the beginning of one.", metavar="NAME")]

COLUMNS: "tuple[Column[Rollout], ...]" = (
    Column("NAME", lambda row: row.name),
    Column("UUID", lambda row: row.uuid),
    Column("VERSION", lambda row: row.version),
    Column("STATE", lambda row: row.state, style=status_style),
    Column("WANTED", lambda row: row.wanted_num, is_number=True),
    Column("UPDATED", lambda row: row.updated_num, is_number=True),
    Column("READY", lambda row: row.ready_num, is_number=True),
    Column("OUTDATED", lambda row: row.outdated_num, is_number=True),
    Column("LAST GOOD", lambda row: row.stable_version or "none"),
)


def _part(version: "Version") -> str:
    good = "last good" if version.is_stable else "was good" if version.was_good else "never good"
    return f"wanted, {good}" if version.is_wanted else good


VERSIONS: "tuple[Column[Version], ...]" = (
    Column("VERSION", lambda row: row.version),
    Column("AGE", lambda row: age(row.created_at), is_number=True),
    Column("CONTAINERS", lambda row: row.container_num, is_number=True),
    Column("IS", _part),
    Column("IMAGE", lambda row: row.image_uuid),
    Column("CMD", lambda row: row.cmd.strip().splitlines()[0]),
)


@rollout.command()
@connected
def status(
    client: "Client",
    name: Name,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Until complete (exit 0), failed or paused (1).")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show how far the present version of a deployment is."""
    uuid = find_deployment(client, name).uuid
    seen = client.rollouts.status(uuid)
    said = ""
    while watch and seen.state == "progressing":
        if output is Format.TABLE and seen.message != said:
            said = seen.message
            say(said)
        time.sleep(POLL_SECONDS)
        seen = client.rollouts.status(uuid)
    if output is Format.JSON:
        print_json(seen)
    else:
        print_table([seen], COLUMNS)
        say(seen.message)
    if watch and seen.state != "complete":
        sys.exit(1)


@rollout.command()
@connected
def history(client: "Client", name: Name, output: Output = Format.TABLE) -> None:
    """List the versions of a deployment, newest first."""
    show(client.rollouts.versions(find_deployment(client, name).uuid), VERSIONS, output, empty="no versions")


@rollout.command()
@connected
def pause(client: "Client", name: Name, output: Output = Format.TABLE) -> None:
    """Replace no more containers for now."""
    seen = client.rollouts.pause(find_deployment(client, name).uuid)
    report("pause", seen.name, seen.uuid, seen.message, output)


@rollout.command()
@connected
def resume(client: "Client", name: Name, output: Output = Format.TABLE) -> None:
    """Go on with a paused rollout, or try a failed one again."""
    seen = client.rollouts.resume(find_deployment(client, name).uuid)
    report("resume", seen.name, seen.uuid, seen.message, output)


@rollout.command()
@connected
def undo(
    client: "Client",
    name: Name,
    to: Annotated[str | None, typer.Option("--to", help="This version (see: muster rollout history).")] = None,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """Go back to the last good version, or the one before."""
    deployment = find_deployment(client, name)
    seen = client.rollouts.status(deployment.uuid)
    target = to or seen.undo_version
    if target and not agreed(f"Take {seen.name} {seen.uuid} from {seen.version} back to {target}?", yes=yes):
        sys.exit(1)
    edited = client.rollouts.undo(deployment.uuid, to)
    changed = f"; changed: {', '.join(edited.changed)}" if edited.changed else ""
    resumed = "; it was paused and goes on" if seen.is_paused else ""
    report("undo", deployment.name, deployment.uuid, f"back to {edited.version}{changed}{resumed}", output)


@rollout.command()
@connected
def restart(
    client: "Client",
    name: Name,
    version: Annotated[str, typer.Option("--version", help="What to call it; must be new.", metavar="NAME")],
    output: Output = Format.TABLE,
) -> None:
    """Make every container anew, one after the other, as a version of that name."""
    deployment = find_deployment(client, name)
    edited = client.rollouts.edit(deployment.uuid, {}, version=version)
    if not edited.is_new_version:
        raise InvalidSpec("--version", f"{version!r} is what runs already; give a name that no version had")
    report("restart", deployment.name, deployment.uuid, f"every container is made anew as {edited.version}", output)
