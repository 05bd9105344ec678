"""What is probably not meant in a start command: an ordered table of rules, none of which refuses anything.

In: the text of a command. Out: warnings, in the order of the rules, each with what it is about, why it will not do what
it looks like, and what to write instead. A rule speaks up only where the shell is known to do something else than
people expect: a warning that is often wrong teaches to ignore all of them. A command that cannot be read gets only
those warnings that need no structure; ``bash -n``, which the API asks, names its error.

``repaired`` is the one thing that is changed for the user: AutoDL's guide writes ``a &; b``, which bash refuses.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

from muster.planner.shell import Command, Script, Simple, Statement, parse
from muster.planner.shell_programs import program_of, programs, programs_in, statements
from muster.planner.shell_tokens import Kind, Token, Unreadable, tokens

_LONGEST_SNIPPET: Final = 60


class Code(StrEnum):
    """What kind of warning it is; part of the API."""

    SYNTAX = "syntax"
    AMPERSAND_SEMICOLON = "ampersand_semicolon"
    LINE_ENDINGS = "line_endings"
    TYPOGRAPHY = "typography"
    BACKGROUND = "background"
    NO_TERMINAL = "no_terminal"
    CONDA_ACTIVATE = "conda_activate"
    RELATIVE_PATH = "relative_path"
    AND_OR = "and_or"
    SYSTEMCTL = "systemctl"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class CommandWarning:
    """One thing that is probably not meant; ``snippet`` is it, on line ``line``, which counts from 1."""

    code: Code
    message: str
    line: int
    snippet: str


@dataclass(frozen=True, slots=True)
class _Read:
    """A command and what could be understood of it."""

    text: str
    tokens: tuple[Token, ...]
    script: Script

    def warning(self, code: Code, start: int, end: int, message: str) -> CommandWarning:
        """Make a warning about a part; ``{}`` in the message stands for it."""
        snippet = " ".join(self.text[start:end].split())
        if len(snippet) > _LONGEST_SNIPPET:
            snippet = snippet[:_LONGEST_SNIPPET].rstrip() + "…"
        return CommandWarning(code, message.replace("{}", f"`{snippet}`"), self.text.count("\n", 0, start) + 1, snippet)


def lint(cmd: str) -> tuple[CommandWarning, ...]:
    """Return what is probably not meant."""
    text = cmd.replace("\r\n", "\n")
    warnings = [] if text == cmd else [_LINE_ENDINGS]
    try:
        words = tokens(text)
    except Unreadable:
        return tuple(warnings)
    try:
        script = parse(text)
    except Unreadable:
        script = ()
    read = _Read(text, words, script)
    return (*warnings, *(each for rule in _RULES for each in rule(read)))


def repaired(cmd: str) -> str | None:
    """Return the command with every ``&;`` made a ``&``; ``None`` when there is none."""
    try:
        semicolons = [second.start for _, second in _ampersand_semicolons(tokens(cmd))]
    except Unreadable:
        return None
    if not semicolons:
        return None
    starts = [0, *(position + 1 for position in semicolons)]
    return "".join(cmd[start:end] for start, end in zip(starts, [*semicolons, len(cmd)], strict=True))


_LINE_ENDINGS = CommandWarning(
    Code.LINE_ENDINGS,
    "lines end as on Windows (CR LF): the shell takes the CR for a part of the last word of each line; save the text "
    "with LF line endings",
    1,
    "",
)
REPAIRED = CommandWarning(
    Code.AMPERSAND_SEMICOLON,
    "`&;` is a syntax error in bash: `&` already separates commands; it was stored with `&` alone",
    1,
    "&;",
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words and operators


def _ampersand_semicolons(read: tuple[Token, ...]) -> Iterator[tuple[Token, Token]]:
    for first, second in pairwise(read):
        if (first.kind, first.text, second.kind, second.text) == (Kind.OPERATOR, "&", Kind.OPERATOR, ";"):
            yield first, second


def _ampersand_semicolon(read: _Read) -> Iterator[CommandWarning]:
    for first, second in _ampersand_semicolons(read.tokens):
        message = "{} is a syntax error in bash: `&` already separates commands; write `&` alone"
        yield read.warning(Code.AMPERSAND_SEMICOLON, first.start, second.end, message)
        return


_FROM_DOCUMENTS = re.compile(r"[“”‘’]|^[–—]|[\u00a0\u3000]|^[^“”]*[；＆｜][^“”]*$")
_ASCII_BUT = re.compile(r"[\x21-\x7e“”‘’–—\u00a0\u3000；＆｜]*")


def _typography(read: _Read) -> Iterator[CommandWarning]:
    for token in read.tokens:
        raw = read.text[token.start : token.end]
        is_quoted = any(quote in raw for quote in "'\"\\")
        if token.kind is Kind.WORD and not is_quoted and _FROM_DOCUMENTS.search(raw) and _ASCII_BUT.fullmatch(raw):
            message = (
                "{} holds a character of documents (a curly quote, a long dash, a wide space or a full-width mark), "
                "which the shell takes for a letter: type it anew as ' \" - ; & or |"
            )
            yield read.warning(Code.TYPOGRAPHY, token.start, token.end, message)
            return


# What is left running, or never runs, at the end

_QUICK = _words(
    "echo printf cd pushd popd export unset true : set date disown jobs pwd exit mkdir touch chmod umask ulimit"
)
_SHORT_SLEEP = re.compile(r"[0-9]{1,2}s?")


def _background(read: _Read) -> Iterator[CommandWarning]:
    left = _left_behind(read.script)
    if left is None:
        return
    if isinstance(left, Simple):
        message = (
            "{} goes to the background by itself and nothing waits for it: when the command ends, the container ends, "
            "and it with it; start the program itself, in the foreground"
        )
    else:
        message = (
            "{} runs in the background and nothing waits for it: when the command ends, the container ends, and it "
            "with it; leave out the last & (and nohup: there is no terminal to hang up), or end the command with: wait"
        )
    yield read.warning(Code.BACKGROUND, left.start, left.end, message)


def _left_behind(script: Script) -> Statement | Simple | None:
    """Return what goes on in the background when a script comes to its end."""
    for statement in reversed(script):
        if statement.is_background:
            return statement
        if not _is_quick(statement):
            return _left_behind_by(statement.pipelines[-1][-1])
    return None


def _left_behind_by(command: Command) -> Statement | Simple | None:
    if isinstance(command, Simple):
        return command if _detaches(program_of(command.words)) else None
    if command.kind in {"(", "{"} or (command.kind == "for" and not any("((" in each for each in command.header)):
        return _left_behind(command.bodies[0])
    if command.kind == "if":
        found = [_left_behind(body) for body in command.bodies]
        if all(left or all(map(_is_quick, body)) for body, left in zip(command.bodies, found, strict=True)):
            return next((left for left in found if left), None)
    return None


def _is_quick(statement: Statement) -> bool:
    """Tell whether a statement is over at once and leaves nothing running."""
    return not statement.is_background and all(
        isinstance(command, Simple) and _is_quick_program(program_of(command.words))
        for pipeline in statement.pipelines
        for command in pipeline
    )


def _is_quick_program(words: tuple[str, ...]) -> bool:
    if not words:
        return True  # only variables are set
    return words[0] in _QUICK or (words[0] == "sleep" and all(_SHORT_SLEEP.fullmatch(each) for each in words[1:]))


def _detaches(words: tuple[str, ...]) -> bool:
    match words:
        case ("screen", *options):
            return any(re.fullmatch(r"-[A-Za-z]*dm[A-Za-z]*", each) for each in options)
        case ("tmux", "new" | "new-session", *options):
            return any(re.fullmatch(r"-[A-Za-z]*d[A-Za-z]*", each) for each in options)
        case ("service", _, "start" | "restart"):
            return True
        case ("gunicorn", *options):
            return "-D" in options or "--daemon" in options
        case ("nginx", *options):
            return not any("daemon off" in each or each in {"-t", "-T", "-v", "-V", "-s"} for each in options)
        case _:
            return False


_INTERACTIVE = frozenset({"bash", "sh", "zsh", "python", "python3", "ipython"})


def _no_terminal(read: _Read) -> Iterator[CommandWarning]:
    last = read.script[-1].pipelines[-1] if read.script and not read.script[-1].is_background else ()
    if len(last) != 1 or not isinstance(last[0], Simple) or last[0].has_input:
        return
    words = program_of(last[0].words)
    if words and words[0].rpartition("/")[2] in _INTERACTIVE and set(words[1:]) <= {"-i", "-l", "--login"}:
        message = (
            "{} waits for somebody to type, and a start command has no terminal: it ends at once; to keep a container "
            "for working in it write: sleep infinity"
        )
        yield read.warning(Code.NO_TERMINAL, last[0].start, last[0].end, message)


# Programs that do something else here

_CONDA = frozenset({"conda", "mamba", "micromamba"})
_SETS_UP_CONDA = re.compile(r"conda|\.bashrc|profile|activate")


def _conda_activate(read: _Read) -> Iterator[CommandWarning]:
    for command in programs(read.script):
        words = program_of(command.words)
        if words[:1] in {("source",), (".",), ("eval",)} and _SETS_UP_CONDA.search(" ".join(words)):
            return
        if len(words) > 1 and words[0] in _CONDA and words[1] == "activate":
            name = words[2] if len(words) > 2 and re.fullmatch(r"[\w.-]+", words[2]) else "NAME"
            message = (
                "{} does not work in a start command, which runs in a shell that is no login shell: call the "
                f"environment's own program, as in /root/miniconda3/envs/{name}/bin/python, or write: "
                f"{words[0]} run -n {name} python ..."
            )
            yield read.warning(Code.CONDA_ACTIVATE, command.start, command.end, message)
            return


_PYTHON = re.compile(r"python[0-9.]*")
_SHELLS = frozenset({"bash", "sh", "zsh", "dash"})
_INTERPRETERS = frozenset({"node", "perl", "ruby", "source", "."})
_LAUNCHERS = frozenset({"torchrun", "accelerate", "deepspeed", "streamlit"})
_MAKES_FILES = _words(
    "git svn tar unzip 7z cp mv ln rsync scp wget curl aria2c rclone modelscope huggingface-cli hf ossutil"
)
_PATH = re.compile(r"[\w./+@%,=][\w./+@%,=-]*")
_SCRIPT = re.compile(r".*\.(py|sh|bash|js|mjs|ts|pl|rb)")


def _relative_path(read: _Read) -> Iterator[CommandWarning]:
    seen: set[str] = set()
    for command in programs(read.script):
        words = program_of(command.words)
        program = words[0] if words else ""
        if program in {"cd", "pushd"}:
            return
        path = _relative_script(words)
        if path is not None and path.removeprefix("./") not in seen:
            message = (
                "{} names a file relative to the folder that the command starts in, which is not the image's: /root on "
                "Docker (or / where there is no /root), a folder of the container's own on the local engine; write the "
                "whole path, or begin with: cd /the/folder &&"
            )
            yield read.warning(Code.RELATIVE_PATH, command.start, command.end, message)
            return
        if program in _MAKES_FILES:
            return
        seen.update(each.removeprefix("./") for each in (*words, *command.targets))


def _relative_script(words: tuple[str, ...]) -> str | None:
    """Return the script that is run, if it is named by a relative path."""
    if not words:
        return None
    program, arguments = words[0], list(words[1:])
    if "/" in program and _is_relative(program):
        return program
    name = program.rpartition("/")[2]
    if name in _LAUNCHERS:
        return next((each for each in arguments if each.endswith(".py") and _is_relative(each)), None)
    if _PYTHON.fullmatch(name):
        text_follows, with_value = r"-[A-Za-z]*[cm]", {"-W", "-X"}
    elif name in _SHELLS:
        text_follows, with_value = r"-[A-Za-z]*[cs][A-Za-z]*", {"-o", "-O"}
    elif name in _INTERPRETERS:
        text_follows, with_value = r"-[ec]", set()
    else:
        return None
    while arguments:
        argument = arguments.pop(0)
        if re.fullmatch(text_follows, argument) or argument == "-":
            return None
        if argument in with_value:
            arguments = arguments[1:]
        elif not argument.startswith("-"):
            is_script = _SCRIPT.fullmatch(argument) or "/" in argument
            return argument if is_script and _is_relative(argument) else None
    return None


def _is_relative(path: str) -> bool:
    return _PATH.fullmatch(path) is not None and not path.startswith("/")


_HARMLESS = _words("true : false exit return echo printf sleep tail")
_NEVER_FAILS = _words("true : echo printf")
_PREPARES = _QUICK | {"source", ".", "rm"}


def _and_or(read: _Read) -> Iterator[CommandWarning]:
    for statement in statements(read.script):
        operators = list(statement.operators)
        if "&&" not in operators or "||" not in operators[operators.index("&&") :]:
            continue
        place = operators.index("||", operators.index("&&"))
        before, after = statement.pipelines[: place + 1], statement.pipelines[place + 1]
        steps = [each for each in before if not _consists_of(each, _PREPARES)]
        if len(steps) > 1 and not _consists_of(before[-1], _NEVER_FAILS) and not _consists_of(after, _HARMLESS):
            message = (
                "{} is no if-then-else: what is after || also runs when what is after && fails; if that is not meant "
                "write: if a; then b; else c; fi"
            )
            yield read.warning(Code.AND_OR, statement.start, statement.end, message)
            return


def _consists_of(pipeline: tuple[Command, ...], programs: frozenset[str]) -> bool:
    return all(
        (not words or words[0] in programs)
        for command in pipeline
        for simple in ([command] if isinstance(command, Simple) else programs_in(command))
        for words in [program_of(simple.words)]
    )


def _no_services(read: _Read) -> Iterator[CommandWarning]:
    told: set[Code] = set()
    for command in programs(read.script):
        words = program_of(command.words)
        name = words[0].rpartition("/")[2] if words else ""
        code, message = _ABSENT.get(name, (Code.SYNTAX, ""))
        if message and code not in told:
            told.add(code)
            yield read.warning(code, command.start, command.end, message)


_SHUTDOWN = (
    Code.SHUTDOWN,
    "{} is not needed, and a container cannot do it: it ends, and costs nothing more, when its command does",
)
_ABSENT = {
    "systemctl": (
        Code.SYSTEMCTL,
        "{} cannot work, since no systemd runs in a container: start the program itself, in the foreground",
    ),
    "shutdown": _SHUTDOWN,
    "poweroff": _SHUTDOWN,
    "halt": _SHUTDOWN,
    "reboot": _SHUTDOWN,
}


_RULES: tuple[Callable[[_Read], Iterator[CommandWarning]], ...] = (
    _ampersand_semicolon,
    _typography,
    _background,
    _no_terminal,
    _conda_activate,
    _relative_path,
    _and_or,
    _no_services,
)
