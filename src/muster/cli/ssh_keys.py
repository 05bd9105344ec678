"""``ssh-keys``: the public keys that open the account's containers."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.connection import connected
from muster.cli.view import Column, Format, Output, age, print_json, say, show
from muster.errors import InvalidSpec, NotFound

if TYPE_CHECKING:
    from muster.client import Client, SshKey

KEYS: "tuple[Column[SshKey], ...]" = (
    Column("FINGERPRINT", lambda row: row.fingerprint),
    Column("TYPE", lambda row: row.key.partition(" ")[0]),
    Column("NAME", lambda row: row.name),
    Column("AGE", lambda row: age(row.created_at), is_number=True),
)
_LARGEST_BYTES = 1 << 16

ssh_keys = typer.Typer(
    name="ssh-keys", help="See and change whose SSH keys open the account's containers.", no_args_is_help=True
)


@ssh_keys.command()
@connected
def add(
    client: "Client",
    file: Annotated[str, typer.Argument(help="A file that ends in .pub, or - (standard input).", metavar="FILE")],
    name: Annotated[str, typer.Option("--name", "-n", help="What to call it (else its comment).")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Let the owner of a public key in to the account's containers, also to those that run."""
    added = client.ssh.add_key(_read(file), name=name)
    if output is Format.JSON:
        print_json(added)
    else:
        say(f"{added.fingerprint} {added.name}: opens the account's containers")


@ssh_keys.command(name="list")
@connected
def list_keys(client: "Client", output: Output = Format.TABLE) -> None:
    """List the public keys that open the account's containers."""
    show(client.ssh.keys(), KEYS, output, empty="no SSH keys")


@ssh_keys.command()
@connected
def remove(
    client: "Client",
    key: Annotated[
        str, typer.Argument(help="Fingerprint, its beginning, or the name that only one has.", metavar="KEY")
    ],
    output: Output = Format.TABLE,
) -> None:
    """Let nobody in by a key any more; who is in stays in."""
    removed = client.ssh.remove_key(_found(client, key).fingerprint)
    if output is Format.JSON:
        print_json({"action": "remove", "fingerprint": removed.fingerprint, "name": removed.name})
    else:
        say(f"{removed.fingerprint} {removed.name}: opens nothing any more")


def _read(file: str) -> str:
    try:
        if file == "-":
            return sys.stdin.read(_LARGEST_BYTES)
        with Path(file).expanduser().open(encoding="utf-8") as opened:
            return opened.read(_LARGEST_BYTES)
    except OSError as error:
        raise InvalidSpec(file, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidSpec(file, "is no text: give a file that ends in .pub") from error


def _found(client: "Client", text: str) -> "SshKey":
    keys = client.ssh.keys()
    exact = [each for each in keys if text in {each.fingerprint, each.fingerprint.removeprefix("SHA256:")}]
    starts = [each for each in keys if text and each.fingerprint.removeprefix("SHA256:").startswith(_bare(text))]
    matches = exact or [each for each in keys if each.name == text] or starts
    if not matches:
        raise NotFound("SSH key", text)
    if len(matches) > 1:
        prints = ", ".join(each.fingerprint for each in matches)
        raise InvalidSpec(text, f"may mean {len(matches)} keys, name one by its fingerprint: {prints}")
    return matches[0]


def _bare(text: str) -> str:
    return text.removeprefix("SHA256:")
