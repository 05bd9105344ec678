"""The shape of a shell command: which commands it is made of, in what order, and what waits for what.

In: the text of a start command. Out: its statements, or ``Unreadable``. It knows as much of bash's grammar as rules
about whole commands need: lists, ``&``, ``&&``, ``||``, pipes, groups, loops, conditions, functions, redirections.
Words come from ``shell_tokens``. Whether the text is valid is for ``bash -n`` to say; what is here only has to
understand what bash accepts.

``shlex`` was refused: it knows neither ``$(...)`` nor here documents nor a comment's end, and no structure at all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from muster.planner.shell_tokens import Kind, Token, Unreadable, tokens

_DEEPEST: Final = 40
"""More groups inside each other than anybody writes, and far from the interpreter's own limit."""
_INPUT = frozenset({"<", "<<<", "<>", "<<", "<<-"})
_CLAUSE_ENDS = frozenset({";;", ";&", ";;&"})


@dataclass(frozen=True, slots=True)
class Simple:
    """A program or builtin with its words; ``targets`` are the files that it is redirected to or from."""

    words: tuple[str, ...]
    targets: tuple[str, ...]
    has_input: bool
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Compound:
    """A group, condition, loop or function; ``kind`` is its first word, ``bodies`` what is inside in order."""

    kind: str
    bodies: tuple["Script", ...]
    start: int
    end: int
    header: tuple[str, ...] = ()


Command: TypeAlias = Simple | Compound


@dataclass(frozen=True, slots=True)
class Statement:
    """Pipelines joined by ``operators`` (``&&`` and ``||``, one fewer), which the shell waits for or not."""

    pipelines: tuple[tuple[Command, ...], ...]
    operators: tuple[str, ...]
    is_background: bool
    start: int
    end: int


Script: TypeAlias = tuple[Statement, ...]


def parse(text: str) -> Script:
    """Read a command; raises ``Unreadable``."""
    parser = _Parser(tokens(text))
    script = parser.script(frozenset(), depth=0)
    if not parser.is_done:
        raise Unreadable
    return script


class _Parser:
    """Reads tokens from left to right; ``depth`` is how many groups the present one is inside of."""

    def __init__(self, read: tuple[Token, ...]) -> None:
        self._tokens = read
        self._next = 0

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self._next >= len(self._tokens)

    def script(self, ends: frozenset[str], depth: int) -> Script:
        """Read statements up to one of the words or operators that end them, which stays."""
        if depth > _DEEPEST:
            raise Unreadable
        statements: list[Statement] = []
        while True:
            self._skip_newlines()
            while self._is(Kind.OPERATOR, ";") and statements:  # "&;" is an error that is told elsewhere
                self._next += 1
                self._skip_newlines()
            if self.is_done or self._peek() in ends or self._peek() in _CLAUSE_ENDS:
                return tuple(statements)
            statements.append(self._statement(depth))

    def _statement(self, depth: int) -> Statement:
        start = self._token().start
        pipelines, operators = [self._pipeline(depth)], []
        while self._peek() in ("&&", "||") and self._token().kind is Kind.OPERATOR:
            operators.append(self._take())
            self._skip_newlines()
            pipelines.append(self._pipeline(depth))
        end = self._tokens[self._next - 1].end
        is_background = self._is(Kind.OPERATOR, "&")
        if is_background:
            end = self._token().end
        if is_background or self._is(Kind.OPERATOR, ";"):
            self._next += 1
        return Statement(tuple(pipelines), tuple(operators), is_background, start, end)

    def _pipeline(self, depth: int) -> tuple[Command, ...]:
        while self._peek() in ("!", "time") and self._token().kind is Kind.WORD:
            self._next += 1
        commands = [self._command(depth)]
        while self._peek() in ("|", "|&") and self._token().kind is Kind.OPERATOR:
            self._next += 1
            self._skip_newlines()
            commands.append(self._command(depth))
        return tuple(commands)

    def _command(self, depth: int) -> Command:
        token = self._token()
        if token.kind is Kind.OPERATOR and token.text == "(":
            return self._group("(", ")", depth)
        if token.kind is Kind.WORD:
            compound = self._compounds().get(token.text)
            if compound is not None:
                return compound(depth)
            following = self._tokens[self._next + 1 : self._next + 3]
            if [each.text for each in following] == ["(", ")"] and following[0].kind is Kind.OPERATOR:
                return self._function(depth)
        return self._simple()

    def _compounds(self) -> dict[str, Callable[[int], Command]]:
        return {
            "{": lambda depth: self._group("{", "}", depth),
            "if": self._if,
            "while": self._loop,
            "until": self._loop,
            "for": self._for,
            "select": self._for,
            "case": self._case,
            "function": self._function,
            "[[": lambda _: self._test(),
        }

    def _group(self, opening: str, closing: str, depth: int) -> Compound:
        start = self._token().start
        self._expect(opening)
        body = self.script(frozenset({closing}), depth + 1)
        self._expect(closing)
        return self._finish(opening, (body,), start)

    def _if(self, depth: int) -> Compound:
        start = self._token().start
        self._expect("if")
        self.script(frozenset({"then"}), depth + 1)
        self._expect("then")
        bodies = [self.script(frozenset({"elif", "else", "fi"}), depth + 1)]
        while self._peek() == "elif":
            self._next += 1
            self.script(frozenset({"then"}), depth + 1)
            self._expect("then")
            bodies.append(self.script(frozenset({"elif", "else", "fi"}), depth + 1))
        if self._peek() == "else":
            self._next += 1
            bodies.append(self.script(frozenset({"fi"}), depth + 1))
        self._expect("fi")
        return self._finish("if", tuple(bodies), start)

    def _loop(self, depth: int) -> Compound:
        start, kind = self._token().start, self._take()
        condition = self.script(frozenset({"do"}), depth + 1)
        self._expect("do")
        body = self.script(frozenset({"done"}), depth + 1)
        self._expect("done")
        return self._finish(kind, (condition, body), start)

    def _for(self, depth: int) -> Compound:
        start, kind = self._token().start, self._take()
        header = []
        while self._peek() not in ("do", ";") and self._token().kind is Kind.WORD:
            header.append(self._take())
        if self._is(Kind.OPERATOR, ";"):
            self._next += 1
        self._skip_newlines()
        self._expect("do")
        body = self.script(frozenset({"done"}), depth + 1)
        self._expect("done")
        return self._finish(kind, (body,), start, tuple(header))

    def _case(self, depth: int) -> Compound:
        start = self._token().start
        self._expect("case")
        self._take()
        self._skip_newlines()
        self._expect("in")
        bodies = []
        self._skip_newlines()
        while self._peek() != "esac":
            while self._take() != ")":
                pass
            bodies.append(self.script(frozenset({"esac"}), depth + 1))
            if self._peek() in _CLAUSE_ENDS:
                self._next += 1
            self._skip_newlines()
        self._expect("esac")
        return self._finish("case", tuple(bodies), start)

    def _function(self, depth: int) -> Compound:
        start = self._token().start
        if self._peek() == "function":
            self._next += 1
        self._take()
        if self._is(Kind.OPERATOR, "("):
            self._next += 1
            self._expect(")")
        self._skip_newlines()
        if depth > _DEEPEST:
            raise Unreadable
        self._command(depth + 1)
        return Compound("function", (), start, self._tokens[self._next - 1].end)

    def _test(self) -> Simple:
        start, words = self._token().start, [self._take()]
        while words[-1] != "]]":
            words.append(self._take())
        return Simple(tuple(words), (), False, start, self._tokens[self._next - 1].end)

    def _simple(self) -> Simple:
        start = self._token().start
        words: list[str] = []
        targets: list[str] = []
        has_input = False
        while not self.is_done and self._token().kind in (Kind.WORD, Kind.REDIRECTION):
            if self._token().kind is Kind.WORD:
                words.append(self._take())
            else:
                has_input |= self._token().text in _INPUT
                targets.append(self._redirection())
        if not words and not targets:
            raise Unreadable
        end = self._tokens[self._next - 1].end
        return Simple(tuple(words), tuple(targets), has_input, start, end)

    def _finish(self, kind: str, bodies: tuple[Script, ...], start: int, header: tuple[str, ...] = ()) -> Compound:
        while not self.is_done and self._token().kind is Kind.REDIRECTION:
            self._redirection()
        return Compound(kind, bodies, start, self._tokens[self._next - 1].end, header)

    def _redirection(self) -> str:
        self._next += 1
        if self._token().kind is not Kind.WORD:
            raise Unreadable
        return self._take()

    def _skip_newlines(self) -> None:
        while self._is(Kind.NEWLINE, "\n"):
            self._next += 1

    def _is(self, kind: Kind, text: str) -> bool:
        return not self.is_done and self._token().kind is kind and self._token().text == text

    def _peek(self) -> str:
        return "" if self.is_done else self._token().text

    def _token(self) -> Token:
        if self.is_done:
            raise Unreadable
        return self._tokens[self._next]

    def _take(self) -> str:
        text = self._token().text
        self._next += 1
        return text

    def _expect(self, text: str) -> None:
        if self._take() != text:
            raise Unreadable
