"""Asking a person before something is created or lost."""

import sys
from typing import Annotated

import typer

from muster.cli.view import note
from muster.errors import SetupError

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def agreed(question: str, *, yes: bool) -> bool:
    """Ask, on standard error so that the answer of a command stays clean; ``yes`` asks nobody.

    Raises ``SetupError`` when there is nobody to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise SetupError("standard input is no terminal, so nobody can be asked; add -y")
    print(question, "[y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201
    is_agreed = sys.stdin.readline().strip().lower() in {"y", "yes"}
    if not is_agreed:
        note("nothing was changed")
    return is_agreed
