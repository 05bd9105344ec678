"""For which service a request is: ordered rules over what its head says, and over the model that its body names. Pure.

In: a table of rules and a head. Out: a ``Match`` (service, port, the target that goes on), ``NEEDS_BODY``, ``Models``
to tell of, or a ``NoRoute`` with what to answer. The first rule that matches wins, in the order of the file: what is
read is what happens, and nobody has to know which of two rules is the more special one.

A rule without models is decided by the head. One with models waits for the body as soon as everything else of it
matches; a request without a body passes it by. One that asks for the models of this API, and that no rule catches, is
told those that rules name, for its host and headers, anywhere on that API's path.

Paths are compared segment by segment, decoded, so that ``/v1`` holds for ``/v1/x`` and not for ``/v10``. What a server
behind us might read differently is dealt with before: ``.`` and ``..`` are resolved (encoded ones too) and go on
resolved, empty segments are passed over in comparing, and a path that leaves the root, that holds a NUL, or hides
``..`` behind an encoded slash or before a semicolon, is refused. Otherwise a path goes on as it came, byte by byte.

Without rules (``services`` only) there are the obvious ones: one service gets everything; of several the first label of
the host, the ``model`` below ``/v1/``, or the first segment of the path says which, and that segment is taken off.
"""

import json
import re
import urllib.parse
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from muster.gateway.models import API, Models, asked_models
from muster.http1.request_head import RequestHead

MOST_NAME_CHARACTERS = 128
_NAMES_SHOWN = 10
_ADDRESS = re.compile(r"[0-9.]+|\[.*")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, and what holds for the requests that it matches. ``strip`` is the part of the path that is taken off.

    ``service`` is a name, or ``*`` for what the star of ``host`` stands for.
    """

    service: str
    port: int = 6006
    path: tuple[str, ...] = ()
    host: str = ""
    header: Mapping[str, str] = field(default_factory=dict)
    models: frozenset[str] = frozenset()
    strip: int = 0
    """How many segments."""
    timeout: float | None = None
    deadline: float | None = None
    priority: int = 0
    idempotent: bool | None = None
    most_body_bytes: int | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it says nothing to the balancer."""
        said = (self.timeout, self.deadline, self.idempotent)
        return said == (None, None, None) and not self.priority


@dataclass(frozen=True, slots=True)
class Match:
    """Where a request goes. ``service`` may be a name that nobody has: only what a rule names is known to be meant."""

    service: str
    target: bytes
    rule: Rule


@dataclass(frozen=True, slots=True)
class NoRoute:
    """Nowhere: what to answer."""

    status: int
    reason: str
    error: str


NEEDS_BODY: Final = "needs body"
Found = Match | Models | NoRoute | Literal["needs body"]
Fields = Callable[[str], str | None]


class Path:
    """A target, taken apart: ``names`` are the segments to compare, ``target`` is what goes on."""

    __slots__ = ("_query", "_raw", "_starts", "names", "target")

    def __init__(self, target: bytes) -> None:
        """Raise ``ValueError`` for a path that is not clear, with what is wrong."""
        path, mark, query = target.partition(b"?")
        self.target = target
        self._query = mark + query
        self._raw: list[bytes] = []
        self._starts: list[int] = []
        names: list[str] = []
        if path != b"*":
            has_dots = self._resolve(path.split(b"/")[1:], names)
            if has_dots:
                self.target = b"/" + b"/".join(self._raw) + self._query
        self.names = tuple(names)

    def _resolve(self, segments: Sequence[bytes], names: list[str]) -> bool:
        raw, starts, has_dots = self._raw, self._starts, False
        last = len(segments) - 1
        for at, segment in enumerate(segments):
            name = _decoded(segment)
            if name in {".", ".."}:
                has_dots = True
                if name == "..":
                    if not raw:
                        raise ValueError("the path leaves the root by ..")
                    if raw.pop():
                        names.pop()
                        starts.pop()
                if at == last:
                    raw.append(b"")
                continue
            if segment:
                starts.append(len(raw))
                names.append(name)
            raw.append(segment)
        return has_dots

    def without(self, count: int) -> bytes:
        """Return the target without its first ``count`` segments."""
        if not count:
            return self.target
        rest = self._raw[self._starts[count - 1] + 1 :]
        while len(rest) > 1 and not rest[0]:  # a target that begins with // could be taken for an authority
            rest = rest[1:]
        return b"/" + b"/".join(rest) + self._query


def _decoded(segment: bytes) -> str:
    if b"%" not in segment and b"\\" not in segment and b";" not in segment:
        return segment.decode("latin-1")
    name = urllib.parse.unquote(segment.decode("latin-1"))
    if "\0" in name:
        raise ValueError("the path holds a NUL")
    parts = name.replace("\\", "/").split("/")
    if len(parts) > 1 and ".." in parts:
        raise ValueError("the path hides .. behind an encoded slash or a backslash")
    if any(part.startswith("..;") for part in parts):  # for a parameter of the segment, which servers of Java take off
        raise ValueError("the path hides .. before a semicolon")
    return name


def segments_of(path: str) -> tuple[str, ...]:
    """Return the segments of a rule's path."""
    return tuple(filter(None, path.split("/")))


class Table:
    """The rules of a configuration; ``services`` are those that are named where there are no rules.

    With neither, every service may be asked for by its name; ``knows`` says which names a host may begin with, and
    ``names`` returns them.
    Without ``tells_names`` no answer says which services or models there are.
    """

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        services: Sequence[str] = (),
        *,
        knows: Callable[[str], bool] = lambda _: False,
        names: Callable[[], Collection[str]] = tuple,
        tells_names: bool = True,
    ) -> None:
        self._rules = rules
        self._services = services
        self._knows = knows
        self._names = names
        self._models = tuple(sorted({model for rule in rules for model in rule.models}))
        self._tells_names = tells_names
        self._default = Rule("")
        self._stripping = Rule("", strip=1)

    @property
    def named(self) -> Sequence[tuple[str, int]]:
        """Which services are meant for sure, with their ports."""
        if not self._rules:
            return [(name, self._default.port) for name in self._services]
        return list(dict.fromkeys((rule.service, rule.port) for rule in self._rules if rule.service != "*"))

    def find(self, head: RequestHead, fields: Fields, body: bytes | None) -> Found:
        """Return where a request goes; ``fields`` returns a header's value, ``body`` is ``None`` if it is not here."""
        try:
            path = Path(head.target)
        except ValueError as error:
            return NoRoute(400, "bad_path", f"{error}: ask for the path itself")
        if not self._rules:
            return self._obvious(head, path, body)
        host = _host(head.host)
        model: str | NoRoute | None = None
        for rule in self._rules:
            star = _star(rule.host, host) if rule.host else ""
            if star is None or path.names[: len(rule.path)] != rule.path or not _has(rule.header, fields):
                continue
            if rule.models:
                if not head.has_body:
                    model = model or NoRoute(404, "no_route", f"no model is named by a {head.method.decode()}")
                    continue
                if body is None:
                    return NEEDS_BODY
                model = model or _model(body)
                if model not in rule.models:
                    continue
            if (service := _service(rule, star)) is not None:
                return Match(service, path.without(rule.strip), rule)
        return self._named_models(head, path, host, fields) or self._nowhere(model)

    def _named_models(self, head: RequestHead, path: Path, host: str, fields: Fields) -> Models | None:
        """Return the models that the caller can ask for by rules."""
        asked = asked_models(head.method, path.names)
        if asked is None:
            return None
        base, wanted = asked
        services: dict[str, str] = {}
        for rule in self._rules:
            star = _star(rule.host, host) if rule.host else ""
            is_beside = any(one != other for one, other in zip(rule.path, base, strict=False))
            if star is None or is_beside or not _has(rule.header, fields):
                continue
            if (service := _service(rule, star)) is not None:
                for model in rule.models:
                    services.setdefault(model, service)
        return Models(services, wanted) if services else None

    def _nowhere(self, model: str | NoRoute | None) -> NoRoute:
        if model is None:
            return NoRoute(404, "no_route", "no route of this gateway leads from here to a service: look at the path")
        known = self._known(self._models)
        if isinstance(model, NoRoute):
            return NoRoute(model.status, model.reason, model.error + known)
        return NoRoute(404, "unknown_model", f"no model is called {_short(model)} here{known}")

    def _known(self, names: Sequence[str]) -> str:
        return f"; known: {shown_names(names)}" if names and self._tells_names else ""

    def _obvious(self, head: RequestHead, path: Path, body: bytes | None) -> Found:
        services = self._services
        if len(services) == 1:
            return Match(services[0], path.target, self._default)
        label, dot, _ = (host := _host(head.host)).partition(".")
        if dot and not _ADDRESS.fullmatch(host) and (label in services if services else self._knows(label)):
            return Match(label, path.target, self._default)
        first = path.names[0] if path.names else ""
        if first == API and first not in services:
            return self._by_model(head, path, body)
        if not first:
            return NoRoute(404, "no_route", f"ask for {self._ways}")
        if services and first not in services:
            return NoRoute(404, "unknown_service", f"no service is called {_short(first)}; ask for {self._ways}")
        if not is_name(first):
            return NoRoute(404, "unknown_service", f"{_short(first)} is no name of a service; ask for {self._ways}")
        return Match(first, path.without(1), self._stripping)

    @property
    def _ways(self) -> str:
        return f"/SERVICE/…{self._known(self._services)}"

    def _by_model(self, head: RequestHead, path: Path, body: bytes | None) -> Found:
        if not head.has_body:
            if (asked := asked_models(head.method, path.names)) is not None and asked[0] == (API,):
                names = self._services or self._names()
                return Models(dict(zip(names, names, strict=True)), asked[1])
            return NoRoute(
                404, "no_route", f"below /v1/ the model of a body says which service; or ask for {self._ways}"
            )
        if body is None:
            return NEEDS_BODY
        model = _model(body)
        if isinstance(model, NoRoute):
            return NoRoute(model.status, model.reason, f"{model.error}; or ask for {self._ways}")
        if (self._services and model not in self._services) or not is_name(model):
            return NoRoute(
                404, "unknown_model", f"no model is called {_short(model)} here{self._known(self._services)}"
            )
        return Match(model, path.target, self._default)


def is_name(text: str) -> bool:
    """Whether ``text`` can be the name of a service at all."""
    return 0 < len(text) <= MOST_NAME_CHARACTERS and text.isprintable() and "/" not in text


def shown_names(names: Collection[str]) -> str:
    """Return some of them for an error."""
    some = [_short(each) for each in list(names)[:_NAMES_SHOWN]]
    return ", ".join([*some, *(["…"] if len(names) > len(some) else [])]) or "none"


def _short(name: str) -> str:
    return repr(name if len(name) <= MOST_NAME_CHARACTERS else name[:MOST_NAME_CHARACTERS] + "…")


def _model(body: bytes) -> str | NoRoute:
    """Return the model that a body names."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return NoRoute(400, "no_model", "the body is not JSON, and its model says where it goes")
    model = value.get("model") if isinstance(value, dict) else None
    if not isinstance(model, str) or not model:
        return NoRoute(400, "no_model", 'the body has no "model", which says where it goes')
    return model


def _has(wanted: Mapping[str, str], fields: Fields) -> bool:
    for name, value in wanted.items():
        found = fields(name)
        if found is None or value not in {"*", found}:
            return False
    return True


def _host(authority: bytes) -> str:
    host = authority.decode("latin-1").lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].removesuffix(".")


def _service(rule: Rule, star: str) -> str | None:
    """Return the service that a rule names for this host."""
    if rule.service != "*":
        return rule.service
    return star if "." not in star and is_name(star) else None


def _star(pattern: str, host: str) -> str | None:
    """Return what the star of a pattern stands for, empty where there is none; ``None`` for another host."""
    if not pattern.startswith("*."):
        return "" if host == pattern else None
    star = host.removesuffix(pattern[1:])
    return star if star and len(star) < len(host) else None
