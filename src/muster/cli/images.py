"""``image …``: the catalogue, what machines hold of it, and logins of registries; ``images`` lists it, too."""

import getpass
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from muster.cli.connection import connected
from muster.cli.names import find_container, find_image
from muster.cli.prompt import Yes, agreed
from muster.cli.view import Column, Format, Output, age, note, print_json, say, show
from muster.errors import SetupError
from muster.model.reference import registry_named

if TYPE_CHECKING:
    from muster.client import BoundImage, CatalogueImage, Client, Prewarm

Found = TypeVar("Found")

POLL_SECONDS = 0.5
_DIGEST_SHOWN = len("sha256:") + 12

IMAGES: "tuple[Column[CatalogueImage], ...]" = (
    Column("NAME", lambda row: row.name),
    Column("UUID", lambda row: row.uuid),
    Column("REFERENCE", lambda row: row.reference),
    Column("DIGEST", lambda row: row.digest[:_DIGEST_SHOWN]),
    Column("STATUS", lambda row: row.status, style=lambda word: "green" if word == "finished" else "yellow"),
    Column("HELD BY", lambda row: len(row.held_on), is_number=True),
    Column("AGE", lambda row: age(row.updated_at), is_number=True),
    Column("MESSAGE", lambda row: row.message),
)
PREWARMS: "tuple[Column[Prewarm], ...]" = (
    Column("MACHINE", lambda row: row.machine_id),
    Column("STATE", lambda row: row.state, style=lambda word: "green" if word == "done" else "yellow"),
    Column("MESSAGE", lambda row: row.message),
)

image = typer.Typer(name="image", help="Name images, save and fetch them, log in to registries.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name or uuid of the image.", metavar="NAME")]
NewName = Annotated[str, typer.Argument(help="What deployments will call it.", metavar="NAME")]
Host = Annotated[str, typer.Argument(help="The registry, like registry.lab:5000 or docker.io.", metavar="HOST")]
Wait = Annotated[bool, typer.Option("--wait", help="Go on until it is over; 1 if it failed.")]
Patience = Annotated[float, typer.Option("--timeout", min=0, help="With --wait: give up after so many seconds.")]


@image.command()
@connected
def add(
    client: "Client",
    name: NewName,
    reference: Annotated[str, typer.Argument(help="Like nginx:1.27 or lab:5000/asr@sha256:...", metavar="REF")],
    is_base: Annotated[bool, typer.Option("--base", help="For all accounts (admins only).")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Let a name stand for an image of a registry, new or anew; nothing that runs is changed by it."""
    bound = client.add_image(name, reference, is_base=is_base)
    if output is Format.JSON:
        print_json(bound)
        return
    if not bound.rebound:
        say(f"{bound.image.name} {bound.image.uuid}: stands for {bound.image.reference}")
        return
    _tell_rebound(bound)


@connected
def images(client: "Client", output: Output = Format.TABLE) -> None:
    """List the images that a deployment may name (the same as: image ls)."""
    show(client.catalogue(), IMAGES, output, empty="no images")


image.command(name="ls", help="List the images that a deployment may name.")(images)


@image.command()
@connected
def rm(client: "Client", name: Name, yes: Yes = False, output: Output = Format.TABLE) -> None:
    """Take an image off the catalogue; what runs of it goes on."""
    found = find_image(client, name)
    if not agreed(f"Remove image {found.name} {found.uuid}?", yes=yes):
        sys.exit(1)
    client.remove_image(found.uuid)
    if output is Format.JSON:
        print_json({"action": "remove", "name": found.name, "image_uuid": found.uuid})
    else:
        say(f"{found.name} {found.uuid}: removed")


@image.command()
@connected
def save(
    client: "Client",
    container: Annotated[str, typer.Argument(help="Uuid, its beginning or last part.", metavar="CONTAINER")],
    name: NewName,
    *,
    wait: Wait = False,
    timeout: Patience = 3600,
    output: Output = Format.TABLE,
) -> None:
    """Make an image of a container's files, running or stopped; it stays on that container's machine."""
    saved = client.save_image(find_container(client, container).uuid, name)
    if wait:
        uuid = saved.uuid
        saved = _poll(
            lambda: next(each for each in client.catalogue() if each.uuid == uuid),
            lambda row: row.status != "saving",
            timeout,
            f"image {name} is still being saved; see: muster image ls",
        )
    if output is Format.JSON:
        print_json(saved)
    elif saved.status != "failed":
        end = "saved" if saved.status == "finished" else "being saved; see: muster image ls"
        say(f"{saved.name} {saved.uuid}: {end}")
    if saved.status == "failed":
        note(f"error: {saved.name} {saved.uuid} could not be saved: {saved.message}")
        sys.exit(1)


@image.command()
@connected
def prewarm(
    client: "Client",
    name: Name,
    *,
    machines: Annotated[list[str] | None, typer.Option("--machine", help="Only this one (repeatable).")] = None,
    data_centers: Annotated[
        list[str] | None, typer.Option("--data-center", "-d", help="Only machines there (repeatable).")
    ] = None,
    is_asking: Annotated[bool, typer.Option("--status", help="Tell how far it is, and want nothing anew.")] = False,
    wait: Wait = False,
    timeout: Patience = 3600,
    output: Output = Format.TABLE,
) -> None:
    """Let machines fetch an image before anybody waits for it: all of them, unless some are named."""
    uuid = find_image(client, name).uuid
    if is_asking:
        rows = client.prewarms(uuid)
    else:
        rows = client.prewarm_image(uuid, machine_ids=machines or (), data_centers=data_centers or ())
    if wait:
        told: dict[str, str] = {}
        rows = _poll(
            lambda: _told(client.prewarms(uuid), told),
            lambda found: all(each.state != "wanted" for each in found),
            timeout,
            f"image {name} is still being fetched; see: muster image prewarm {name} --status",
        )
    show(rows, PREWARMS, output, empty="no machine is to hold it")
    if any(each.state == "failed" for each in rows):
        sys.exit(1)


@image.command()
@connected
def login(
    client: "Client",
    host: Host,
    username: Annotated[str, typer.Option("--username", "-u", help="Name of the user at the registry.")],
    is_piped: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input; else it is asked for.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Keep, encrypted, what a registry asks for; the next fetch uses it."""
    registry = registry_named(host)
    client.put_registry(registry, username, _password(is_piped))
    _report_registry("login", registry, "login kept", output)


@image.command()
@connected
def logout(client: "Client", host: Host, output: Output = Format.TABLE) -> None:
    """Forget what a registry asks for."""
    registry = registry_named(host)
    client.remove_registry(registry)
    _report_registry("logout", registry, "login forgotten", output)


def _tell_rebound(bound: "BoundImage") -> None:
    """Say what changed, and offer to fetch the new image where the old one is."""
    name, uuid = bound.image.name, bound.image.uuid
    if bound.old_reference == bound.image.reference:
        say(f"{name} {uuid}: still stands for {bound.image.reference}")
    else:
        say(f"{name} {uuid}: stands for {bound.image.reference} from now on, no longer for {bound.old_reference}")
    if bound.outdated_on:
        count = len(bound.outdated_on)
        note(f"{count} machine{'s hold' if count > 1 else ' holds'} what it stood for; to fetch the new one there now:")
        note(f"  muster image prewarm {name} {' '.join(f'--machine {each}' for each in bound.outdated_on)}")


def _told(rows: "list[Prewarm]", told: dict[str, str]) -> "list[Prewarm]":
    """Tell the person what is new about machines that are not there yet."""
    for each in rows:
        if each.state == "wanted" and each.message and told.get(each.machine_id) != each.message:
            told[each.machine_id] = each.message
            note(f"{each.machine_id}: {each.message}")
    return rows


def _poll(look: Callable[[], Found], is_over: Callable[[Found], bool], seconds: float, late: str) -> Found:
    """Look again and again until it is over; ends the command when that takes too long."""
    deadline = time.monotonic() + seconds
    while not is_over(found := look()):
        if time.monotonic() >= deadline:
            note(f"error: {late}")
            sys.exit(1)
        time.sleep(POLL_SECONDS)
    return found


def _password(is_piped: bool) -> str:
    if is_piped:
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    elif sys.stdin.isatty():
        password = getpass.getpass()
    else:
        raise SetupError("standard input is no terminal, so nobody can be asked; pipe it in with --password-stdin")
    if not password:
        raise SetupError("the password is empty")
    return password


def _report_registry(action: str, host: str, text: str, output: Format) -> None:
    if output is Format.JSON:
        print_json({"action": action, "registry": host})
    else:
        say(f"{host}: {text}")
