"""``ssh`` and ``cp``: OpenSSH's own client for a container, without typing its password.

``muster ssh`` takes what ``ssh`` takes, where that takes it: options before or after the container, and a command whose
words are joined by spaces and read by the container's shell. Only ``--api``, ``--token-file`` and ``--home`` are ours,
which no option of ``ssh`` looks like. ``muster cp`` is ``scp`` over SFTP, for which an image needs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from muster.cli import openssh
from muster.cli.connection import connected
from muster.cli.names import find_writer
from muster.errors import InvalidSpec

if TYPE_CHECKING:
    from muster.client import Client

_TAKE_VALUES = frozenset("BbcDEeFIiJLlmOoPpQRSWw")
"""Options of ssh that a value follows."""
_OURS = frozenset({"--api", "--token-file", "--home"})


@dataclass
class Words:
    """A command line of ``ssh``, taken apart."""

    ours: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    container: str = ""
    command: list[str] = field(default_factory=list)


def take_apart(words: Sequence[str]) -> Words:
    """Tell our options, those of ssh, the container and its command."""
    found, rest = Words(), list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            if not found.container and rest:
                found.container = rest.pop(0)
            found.command = rest[1:] if rest[:1] == ["--"] else rest
            break
        if word in {"-h", "--help"} or word.startswith("--"):
            found.ours.append(word)
            if word in _OURS and rest:
                found.ours.append(rest.pop(0))
        elif word.startswith("-") and len(word) > 1:
            found.options.append(word)
            if _lacks_value(word) and rest:
                found.options.append(rest.pop(0))
        elif not found.container:
            found.container = word
        else:
            found.command = [word, *rest]
            break
    return found


class SshCommand(TyperCommand):
    """Tells our own options from those of ``ssh``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``--`` before all that is not ours."""
        found = take_apart(args)
        ctx.allow_interspersed_args = False
        words = [*found.options, "--", found.container, *found.command] if found.container else []
        return super().parse_args(ctx, [*found.ours, "--", *words])


@connected
def ssh(
    client: "Client",
    words: Annotated[
        list[str],
        typer.Argument(
            help="Container (as for exec), options of ssh, and a command.", metavar="CONTAINER [-- COMMAND]"
        ),
    ],
) -> None:
    """Log in to a container by SSH: a shell, a command, or forwarded ports; ends with its exit code.

    Takes the options of ssh, like: muster ssh CONTAINER -L 8000:127.0.0.1:8000 -- nvidia-smi -l
    """
    found = take_apart(words)
    path = openssh.program("ssh")
    login = openssh.login_of(client, find_writer(client, found.container))
    uses_keys = any(each.startswith("-i") for each in found.options)
    command = ["--", *found.command] if found.command else []
    code = openssh.call(login, [path], [*found.options, login.host, *command], uses_keys=uses_keys)
    raise typer.Exit(code)


@connected
def cp(
    client: "Client",
    source: Annotated[str, typer.Argument(help="CONTAINER:PATH, or a path here.", metavar="SOURCE")],
    target: Annotated[str, typer.Argument(help="CONTAINER:PATH, or a path here.", metavar="TARGET")],
    *,
    is_recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders with what is in them.")] = False,
    keeps_times: Annotated[bool, typer.Option("--preserve", "-p", help="Keep times and permissions.")] = False,
    is_quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Copy files to or from a running container, like: muster cp -r results CONTAINER:/root/."""
    container, _, path = _remote(source) or _remote(target) or ("", "", "")
    is_download = _remote(source) is not None
    if is_download == (_remote(target) is not None):
        where = "both sides are in containers" if is_download else "neither side is in a container"
        raise InvalidSpec(source, f"{where}: write one of them as CONTAINER:PATH and the other as a path here")
    ssh_path, scp_path = openssh.program("ssh"), openssh.program("scp")
    login = openssh.login_of(client, find_writer(client, container))
    there = f"[{login.host}]:{path}" if ":" in login.host else f"{login.host}:{path}"
    flags = [
        flag
        for flag, is_set in (
            ("-s", openssh.speaks_sftp(ssh_path)),
            ("-r", is_recursive),
            ("-p", keeps_times),
            ("-q", is_quiet),
        )
        if is_set
    ]
    sides = [there, target] if is_download else [source, there]
    raise typer.Exit(openssh.call(login, [scp_path, *flags], ["--", *sides]))


def _lacks_value(word: str) -> bool:
    """Tell whether an option, or the last of a cluster like ``-NL``, has its value in the next word."""
    for place, letter in enumerate(word[1:], start=1):
        if letter in _TAKE_VALUES:
            return place == len(word) - 1
    return False


def _remote(side: str) -> tuple[str, str, str] | None:
    """Return container and path of a side that is in one: as for ``scp``, a colon before any slash tells."""
    container, colon, path = side.partition(":")
    return (container, colon, path) if colon and container and "/" not in container else None
