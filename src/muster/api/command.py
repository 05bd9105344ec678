"""Start commands at the API: what is probably not meant in one, and the one repair that is made.

The rules are ``planner.lint``. This adds what only bash knows: whether the text is valid, by ``bash -n``, which reads
and never executes. It gets the text on standard input (a command may hold secrets, and arguments are for all to see),
no environment, no start-up files and ``LONGEST_SECONDS``. A server without bash, or with a bash that does not answer,
says nothing about validity: none of this ever refuses a command.
"""

import asyncio
import logging
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Final, NamedTuple

from muster.api import schemas
from muster.model.deployment import DeploymentSpec
from muster.planner.lint import REPAIRED, Code, CommandWarning, lint, repaired

LONGEST_SECONDS: Final = 2.0
_KEPT = 256
"""Verdicts kept: deployments are created from few commands, over and over. At most 8 MB of text."""
_LOG = logging.getLogger(__name__)


class Examined(NamedTuple):
    """The command to store, and what to tell whoever wrote it."""

    cmd: str
    warnings: tuple[CommandWarning, ...]


async def examined_spec(spec: DeploymentSpec) -> tuple[DeploymentSpec, tuple[CommandWarning, ...]]:
    """Judge what a deployment runs; returns it with the command to store."""
    cmd, warnings = await examined(spec.cmd)
    return (spec if cmd == spec.cmd else replace(spec, cmd=cmd)), warnings


def command_warnings(warnings: Iterable[CommandWarning]) -> list[schemas.CommandWarningRow]:
    """Show warnings."""
    return [schemas.CommandWarningRow(code=each.code.value, message=each.message) for each in warnings]


async def examined(cmd: str) -> Examined:
    """Judge a start command; ``&;`` is made ``&`` if bash refuses the one and accepts the other."""
    try:
        return await asyncio.to_thread(_examined, cmd)
    except (OSError, subprocess.TimeoutExpired) as error:
        _LOG.warning("bash cannot judge a command: %s", error)
        return Examined(cmd, lint(cmd))


@lru_cache(maxsize=_KEPT)
def _examined(cmd: str) -> Examined:
    verdict = _judge(cmd)
    if verdict is None:
        return Examined(cmd, lint(cmd))
    attempt = repaired(cmd)
    if attempt is not None and not verdict.is_valid:
        second = _judge(attempt)
        if second is not None and second.is_valid:
            return Examined(attempt, (REPAIRED, *lint(attempt), *second.warnings))
    told = (each for each in lint(cmd) if each.code is not Code.AMPERSAND_SEMICOLON or not verdict.is_valid)
    return Examined(cmd, (*told, *verdict.warnings))


class _Verdict(NamedTuple):
    """What bash said; it also warns of some texts that it accepts."""

    is_valid: bool
    warnings: tuple[CommandWarning, ...]


def _judge(cmd: str) -> _Verdict | None:
    """Ask bash; ``None`` where there is none. Raises ``OSError`` and ``TimeoutExpired``."""
    bash = shutil.which("bash")
    if bash is None:
        return None
    done = subprocess.run(
        # extglob: one that the command itself turns on is not on yet while nothing is executed
        [bash, "--norc", "--noprofile", "-O", "extglob", "-n"],
        input=cmd.encode(),
        capture_output=True,
        timeout=LONGEST_SECONDS,
        cwd="/",
        env={},
        check=False,
    )
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode < 0 or (done.returncode and not said):  # it died of the text, which says nothing about it
        return None
    return _Verdict(done.returncode == 0, (_as_warning(said),) if said else ())


def _as_warning(said: str) -> CommandWarning:
    first = said.splitlines()[0].partition(": ")[2]
    where, _, reason = first.partition(": ")
    number = where.removeprefix("line ")
    if not reason or not number.isdigit():
        return CommandWarning(Code.SYNTAX, f"bash says: {first or said}", 1, "")
    return CommandWarning(Code.SYNTAX, f"bash says of line {number}: {reason}", int(number), "")
