"""``fs ls``, ``fs cp`` and ``fs rm``: the files that all containers of the account see at ``/root/autodl-fs``.

A path of the storage is written ``fs:PATH`` where it could be one of this computer, and may be written so anywhere.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.connection import connected
from muster.cli.copying import STREAM, Copier
from muster.cli.view import Column, Format, Output, note, print_json, say, show

if TYPE_CHECKING:
    from muster.client import Client, FileEntry

PREFIX = "fs:"
_KINDS = {"folder": "d", "link": "l", "other": "?"}
_MARKS = {"folder": "/", "link": "@", "other": "?"}

NAMES: "tuple[Column[FileEntry], ...]" = (Column("NAME", lambda row: _printable(row.name) + _MARKS.get(row.kind, "")),)
LONG: "tuple[Column[FileEntry], ...]" = (
    Column("MODE", lambda row: _KINDS.get(row.kind, "-") + row.mode),
    Column("SIZE", lambda row: size(row.size_bytes), is_number=True),
    Column("MODIFIED", lambda row: row.modified_at.strftime("%Y-%m-%d %H:%M")),
    *NAMES,
)

fs = typer.Typer(
    name="fs", help="List, copy and remove the files that containers see at /root/autodl-fs.", no_args_is_help=True
)

DataCenter = Annotated[
    str | None, typer.Option("--data-center", "-d", help="Whose storage (may be left out if there is only one).")
]


@fs.command(name="ls")
@connected
def list_files(
    client: "Client",
    path: Annotated[str, typer.Argument(help="A folder or a file of the storage.", metavar="PATH")] = "/",
    *,
    is_long: Annotated[bool, typer.Option("--long", "-l", help="Permissions, size and time too.")] = False,
    data_center: DataCenter = None,
    output: Output = Format.TABLE,
) -> None:
    """List a folder of the storage by name."""
    rows = client.files(path.removeprefix(PREFIX) or "/", data_center=data_center)
    show(rows, LONG if is_long else NAMES, output, empty="nothing is in it")


@fs.command(name="cp")
@connected
def copy(
    client: "Client",
    source: Annotated[str, typer.Argument(help="fs:PATH, a path here, or - (standard input).", metavar="SOURCE")],
    target: Annotated[str, typer.Argument(help="fs:PATH, a path here, or - (standard output).", metavar="TARGET")],
    *,
    is_recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders with what is in them.")] = False,
    data_center: DataCenter = None,
    output: Output = Format.TABLE,
) -> None:
    """Copy between this computer and the storage."""
    is_download = source.startswith(PREFIX)
    if is_download == target.startswith(PREFIX):
        where = "both sides are of the storage" if is_download else "neither side is of the storage"
        raise typer.BadParameter(f"{where}: write one of them as fs:PATH and the other as a path of this computer")
    if target == STREAM and output is Format.JSON:
        raise typer.BadParameter("the file and -o json cannot both go to standard output")
    copier = Copier(client, data_center)
    if is_download:
        copier.download(source.removeprefix(PREFIX), target, is_recursive=is_recursive)
    else:
        copier.upload(source, target.removeprefix(PREFIX), is_recursive=is_recursive)
    copied = copier.copied
    for each in copied.left_out:
        note(f"left out, for it is no file, or has gone: {_printable(each)}")
    if output is Format.JSON:
        done = {"files": copied.files, "size_bytes": copied.size_bytes, "left_out": copied.left_out}
        print_json({"action": "copy", "source": source, "target": target, **done})
    elif target != STREAM:
        files = "1 file" if copied.files == 1 else f"{copied.files} files"
        say(f"{files}, {size(copied.size_bytes)}, copied to {_printable(target)}")


@fs.command(name="rm")
@connected
def remove(
    client: "Client",
    path: Annotated[str, typer.Argument(help="A file or a folder of the storage.", metavar="PATH")],
    *,
    is_recursive: Annotated[bool, typer.Option("--recursive", "-r", help="A folder with all that is in it.")] = False,
    data_center: DataCenter = None,
    output: Output = Format.TABLE,
) -> None:
    """Remove a file of the storage, or a folder; nobody is asked."""
    removed = client.remove_file(path.removeprefix(PREFIX), data_center=data_center, is_recursive=is_recursive)
    if output is Format.JSON:
        print_json({"action": "remove", "path": path.removeprefix(PREFIX), "kind": removed.kind})
    else:
        say(f"{removed.kind} {_printable(path)} removed")


def size(count: int) -> str:
    """Return a size in the largest unit of 2**10 that leaves a number of at least 1."""
    amount, unit = float(count), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def _printable(name: str) -> str:
    """Return a name without what would act on a terminal: containers choose names."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in name)
