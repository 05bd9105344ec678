"""The words and operators of a shell command: quotes, escapes, expansions, comments and here documents understood.

In: the text of a command. Out: its tokens in order, or ``Unreadable`` where a quote or a parenthesis stays open. What
is inside ``$(...)``, backticks or quotes is part of one word; comments and the text of here documents are no tokens.
Every part of the text is looked at a bounded number of times, whatever it is.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

_LONGEST_ARITHMETIC: Final = 300
"""Characters of a ``((...))``: what is longer is taken for subshells, so that nothing is searched over and over."""
_OPERATOR = re.compile(r";;&|;;|;&|;|&&|&(?!>)|\|\||\|&|\||\(|\)")
_REDIRECTION = re.compile(r"<<<|<<-|<<|<>|<&|<(?!\()|>>|>&|>\||>(?!\()|&>>|&>")
_BLANKS = re.compile(r"(?:[ \t]|\\\n)+")
_PLAIN = re.compile(r"[^ \t\n|&;()<>'\"\\$`]+")
_QUOTES = frozenset("'\"\\$`")
_ENDS_WORD = frozenset(" \t\n|&;()<>")
_HERE = frozenset({"<<", "<<-"})


class Unreadable(Exception):
    """The text ends inside of something, or is in no order that bash would accept."""


class Kind(Enum):
    """What a token is."""

    WORD = auto()
    OPERATOR = auto()
    REDIRECTION = auto()
    NEWLINE = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A part of the text from ``start`` to ``end``; ``text`` of a word is without its quotes."""

    kind: Kind
    text: str
    start: int
    end: int


def tokens(text: str) -> tuple[Token, ...]:
    """Split a command into words and operators; raises ``Unreadable``."""
    try:
        return tuple(_tokens(text))
    except RecursionError as error:  # quotes inside expansions inside quotes, hundreds deep
        raise Unreadable from error


def _tokens(text: str) -> Iterator[Token]:
    position = 0
    expected: list[tuple[str, str]] = []  # here documents whose operator was read: operator, last line
    while position < len(text):
        token = _token(text, position)
        if token is None:
            position = _after_blank(text, position)
            continue
        yield token
        position = token.end
        if token.kind is Kind.REDIRECTION and token.text in _HERE:
            start = _after_blanks(text, position)
            word = _token(text, start) if start < len(text) else None
            if word is None or word.kind is not Kind.WORD:
                raise Unreadable
            expected.append((token.text, word.text))
        elif token.kind is Kind.NEWLINE:
            for operator, last_line in expected:
                position = _after_here_document(text, position, operator, last_line)
            expected.clear()


def _token(text: str, position: int) -> Token | None:
    """Read the token that starts here; ``None``: blanks or a comment do."""
    if text[position] == "\n":
        return Token(Kind.NEWLINE, "\n", position, position + 1)
    if text[position] == "#" or _BLANKS.match(text, position):
        return None
    if redirection := _REDIRECTION.match(text, position):
        return Token(Kind.REDIRECTION, redirection[0], position, redirection.end())
    if text.startswith("((", position) and (end := _after_arithmetic(text, position)) is not None:
        return Token(Kind.WORD, text[position:end], position, end)
    if operator := _OPERATOR.match(text, position):
        return Token(Kind.OPERATOR, operator[0], position, operator.end())
    word, end = _word(text, position)
    if word.isdigit() and text[end : end + 1] in ("<", ">") and (redirection := _REDIRECTION.match(text, end)):
        return Token(Kind.REDIRECTION, redirection[0], position, redirection.end())
    return Token(Kind.WORD, word, position, end)


def _after_blank(text: str, position: int) -> int:
    """Return where blanks or a comment end."""
    if text[position] == "#":
        end = text.find("\n", position)
        return len(text) if end < 0 else end
    return _after_blanks(text, position)


def _after_blanks(text: str, position: int) -> int:
    blanks = _BLANKS.match(text, position)
    return blanks.end() if blanks else position


def _after_here_document(text: str, position: int, operator: str, last_line: str) -> int:
    while position < len(text):
        end = text.find("\n", position)
        line = text[position:] if end < 0 else text[position:end]
        position = len(text) if end < 0 else end + 1
        if (line.lstrip("\t") if operator == "<<-" else line) == last_line:
            break
    return position


def _after_arithmetic(text: str, position: int) -> int | None:
    """Return the end of ``((...))``; ``None`` for two subshells."""
    depth = 0
    last = text.rfind("))", position, position + _LONGEST_ARITHMETIC)
    for index in range(position, last + 2):
        if text[index] == "(":
            depth += 1
        elif text[index] == ")":
            depth -= 1
            if depth == 1 and not text.startswith("))", index):
                return None
            if depth == 0:
                return index + 1
    return None


def _word(text: str, position: int) -> tuple[str, int]:
    """Return the word that starts here, without its quotes, and its end."""
    parts: list[str] = []
    while position < len(text):
        character = text[position]
        if character == "(" and parts and parts[-1][-1:] in ("=", "?", "*", "+", "@", "!"):
            end = _after_parenthesis(text, position)  # an array, or a pattern
            parts.append(text[position:end])
        elif character in "<>" and text[position + 1 : position + 2] == "(":
            end = _after_parenthesis(text, position + 1)
            parts.append(text[position:end])
        elif character in _ENDS_WORD:
            break
        elif character in _QUOTES:
            part, end = _quoted(text, position)
            parts.append(part)
        else:
            plain = _PLAIN.match(text, position)
            assert plain is not None
            parts.append(plain[0])
            end = plain.end()
        position = end
    return "".join(parts), position


def _quoted(text: str, position: int) -> tuple[str, int]:
    """Return what a quote, an escape or an expansion stands for, as far as its text tells, and its end."""
    character = text[position]
    if character == "\\":
        escaped = text[position + 1 : position + 2]
        return "" if escaped == "\n" else escaped, position + 1 + len(escaped)
    if text.startswith(("$'", '$"'), position):
        position += 1
        end = _after_quote(text, position, escapes=True)
        return text[position + 1 : end - 1], end
    if character in "'\"":
        end = _after_quote(text, position, escapes=character == '"')
        return text[position + 1 : end - 1], end
    end = _after_expansion(text, position)
    return text[position:end], end


def _after_quote(text: str, position: int, *, escapes: bool) -> int:
    quote = text[position]
    index = position + 1
    while index < len(text):
        character = text[index]
        if character == quote:
            return index + 1
        if character == "\\" and escapes:
            index += 2
        elif quote == '"' and character in "$`":
            index = _after_expansion(text, index)
        else:
            index += 1
    raise Unreadable


def _after_expansion(text: str, position: int) -> int:
    if text[position] == "`":
        return _after_quote(text, position, escapes=True)
    if text.startswith("$(", position):
        return _after_parenthesis(text, position + 1)
    if text.startswith("${", position):
        return _after_bracket(text, position + 1, "{", "}")
    return position + 1


def _after_parenthesis(text: str, position: int) -> int:
    return _after_bracket(text, position, "(", ")")


def _after_bracket(text: str, position: int, opening: str, closing: str) -> int:
    """Return the end of what is in brackets, quotes inside not counted; without recursion into brackets of its kind."""
    depth, index = 0, position
    while index < len(text):
        character = text[index]
        if character == "\\":
            index += 2
            continue
        if character in "'\"":
            index = _after_quote(text, index, escapes=character == '"')
            continue
        depth += (character == opening) - (character == closing)
        index += 1
        if depth == 0:
            return index
    raise Unreadable
