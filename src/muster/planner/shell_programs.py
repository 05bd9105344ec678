"""What a shell command runs in the end: its programs in the order of the text, without what only starts another one.

In: what ``shell`` parsed. Out: statements, programs, and of each program its own words: ``FOO=1 nohup timeout 5 python
a.py`` runs ``python a.py``. The bodies of functions are left out: when they run, if ever, is not known.
"""

import re
from collections.abc import Iterator

from muster.planner.shell import Compound, Script, Simple, Statement

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*(\[[^]]*\])?\+?=.*", re.DOTALL)
_WRAPPERS = frozenset(
    ["nohup", "exec", "setsid", "command", "builtin", "time", "sudo", "stdbuf", "nice", "ionice", "env", "timeout"]
)
_RUNNERS = {("conda", "run"), ("mamba", "run"), ("micromamba", "run"), ("uv", "run"), ("poetry", "run")}
_WITH_VALUE = frozenset({"-n", "-k", "-s", "-u", "-a", "-c", "-p", "-o", "-e", "--name", "--prefix", "--signal"})


def program_of(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return what is run in the end: without variables that are set for it and programs that only start another."""
    place = 0
    while place < len(words):
        if _ASSIGNMENT.fullmatch(words[place]):
            place += 1
        elif words[place : place + 2] in _RUNNERS:
            place = _after_options(words, place + 2)
        elif words[place] in _WRAPPERS:
            has_duration = words[place] == "timeout"
            place = _after_options(words, place + 1) + has_duration
        else:
            break
    return words[place:]


def _after_options(words: tuple[str, ...], place: int) -> int:
    while place < len(words) and words[place].startswith("-"):
        place += 2 if words[place] in _WITH_VALUE else 1
    return place


def statements(script: Script) -> Iterator[Statement]:
    """Yield every statement in the order of the text; the bodies of functions are left out."""
    for statement in script:
        yield statement
        for pipeline in statement.pipelines:
            for command in pipeline:
                if isinstance(command, Compound):
                    for body in command.bodies:
                        yield from statements(body)


def programs(script: Script) -> Iterator[Simple]:
    """Yield every program that is run, in the order of the text."""
    for statement in script:
        for pipeline in statement.pipelines:
            for command in pipeline:
                if isinstance(command, Simple):
                    yield command
                else:
                    yield from programs_in(command)


def programs_in(command: Compound) -> Iterator[Simple]:
    """Yield every program that is run inside of a compound command."""
    for body in command.bodies:
        yield from programs(body)
