"""A YAML document as nodes that know their line, and the problems found in it.

PyYAML composes nodes and we read those, instead of loading plain values: a node knows its line and the characters
that were written. Everything wrong is collected, so that one run shows all of it. Merge keys (``<<``) and anchors work.
"""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import yaml

_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"
_MOST_NAMES = 17
"""Told at once where a field is unknown: all the short ones of a deployment, which come before AutoDL's own."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """What is wrong at one place, and what would be right. ``field`` is empty when the whole file is meant."""

    line: int
    field: str
    text: str

    def at(self, file: str) -> str:
        """Return the one line that a person reads."""
        return f"{file}:{self.line}: {self.field}: {self.text}" if self.field else f"{file}:{self.line}: {self.text}"


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the file, the dotted path of its field, and the line where a person looks for it."""

    path: str
    line: int
    node: yaml.Node

    @property
    def key(self) -> str:
        """The last part of its path."""
        return self.path.rpartition(".")[2]

    @property
    def is_null(self) -> bool:
        """Whether nothing was written, or ``null``."""
        return self.node.tag == _NULL

    @property
    def is_mapping(self) -> bool:
        """Whether it is a mapping of fields."""
        return isinstance(self.node, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return isinstance(self.node, yaml.SequenceNode)

    @property
    def kind(self) -> str:
        """What it is, for a message."""
        return "a mapping" if self.is_mapping else "a list" if self.is_list else "a single value"


@dataclass(slots=True)
class Document:
    """One file being read: its root, and the problems found so far."""

    root: Value | None = None
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, value: Value, text: str) -> None:
        """Remember a problem."""
        self.problems.append(Problem(value.line, value.path, text))

    def scalar(self, value: Value, right: str) -> str | None:
        """Return the characters of a single value; anything else is a problem, whose cure ``right`` shows."""
        if isinstance(value.node, yaml.ScalarNode) and not value.is_null:
            return _whole(str(value.node.value))
        self.wrong(value, f"is {'empty' if value.is_null else value.kind}; write {right}")
        return None

    def fields(self, value: Value) -> Iterator[Value]:
        """Yield the fields of a mapping; merged ones have their own lines, own ones win over them."""
        if not isinstance(value.node, yaml.MappingNode):
            self.wrong(value, f"is {'empty' if value.is_null else value.kind}; write its fields below it, indented")
            return
        seen: dict[str, Value] = {}
        for inner, is_merged in _pairs(value.node, frozenset()):
            key, node = inner
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append(Problem(_line(key), value.path, "a field's name must be a single word"))
                continue
            name = _whole(str(key.value))
            found = Value(f"{value.path}.{name}" if value.path else name, _line(key), node)
            if name not in seen:
                seen[name] = found
            elif not is_merged:
                self.wrong(found, f"is given twice, also in line {seen[name].line}; keep one")
        yield from seen.values()

    def items(self, value: Value) -> list[Value]:
        """Return the items of a list; a single value is a list of one."""
        if isinstance(value.node, yaml.SequenceNode):
            return [Value(value.path, _line(node), node) for node in value.node.value]
        return [] if value.is_null else [value]

    def unknown(self, value: Value, known: Iterable[str]) -> None:
        """Remember that there is no such field, and which one may be meant."""
        names = list(known)
        key = value.key.lower()
        close = [name for name in names if name.startswith(key)] or difflib.get_close_matches(key, names, 1, 0.55)
        known_ones = ", ".join(names[:_MOST_NAMES]) + (", ... (all: docs/cli.md)" if len(names) > _MOST_NAMES else "")
        self.wrong(
            value, f"unknown field; did you mean {close[0]!r}?" if close else f"unknown field; known: {known_ones}"
        )


def parse(source: str) -> Document:
    """Return the only document of a YAML text; syntax errors are problems like any other."""
    try:
        node = yaml.compose(source, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return Document(problems=[Problem(mark.line + 1 if mark else 1, "", _syntax(error))])
    except (yaml.YAMLError, RecursionError) as error:
        return Document(problems=[Problem(1, "", f"is not YAML: {str(error).splitlines()[0]}")])
    if node is None:
        return Document(problems=[Problem(1, "", "is empty; give at least name, image and cmd")])
    root = Value("", _line(node), node)
    if not root.is_mapping:
        return Document(problems=[Problem(root.line, "", f"is {root.kind}; write fields, like 'name: digits'")])
    return Document(root=root)


def _syntax(error: yaml.MarkedYAMLError) -> str:
    said = error.problem or error.context or "cannot be read"
    if "expected a single document" in (error.context or ""):
        return "a second document begins here; put one deployment into a file"
    hint = {
        "mapping values are not allowed here": "; quote a text that contains ': '",
        "found character '\\t' that cannot start any token": "; indent with spaces, not tabs",
    }.get(said, "")
    return f"is not YAML: {said}{hint}"


def _pairs(node: yaml.MappingNode, above: frozenset[int]) -> Iterator[tuple[tuple[yaml.Node, yaml.Node], bool]]:
    """Yield a mapping's own pairs, then those it merges, telling which is which."""
    merged: list[yaml.Node] = []
    for key, value in node.value:
        if key.tag == _MERGE:
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
        else:
            yield (key, value), False
    for each in merged:
        if isinstance(each, yaml.MappingNode) and id(each) not in above:
            for pair, _ in _pairs(each, above | {id(node)}):
                yield pair, True


def _whole(text: str) -> str:
    """Join surrogate pairs: JSON writes a character beyond the first 65,536 as two escapes, YAML reads them as two."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
