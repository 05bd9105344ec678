"""The fields of a deployment file, and the create body that they mean.

In: the text of a file and the shell's environment. Out: the JSON object that AutoDL documents for
``POST /api/v1/dev/deployment``, or everything that is wrong with the file. Two vocabularies name the same things and
may be mixed: short ones for people (``gpu: RTX 4090:2``, ``cpu: 4..8``) and AutoDL's own (``gpu_name_set``,
``cpu_num_from``, with or without ``container_template``), so that an AutoDL body is a valid file. Saying one thing
in both is a problem, for one of them would silently lose.

Only what the file alone can tell is judged here; the server judges the rest. Unknown fields are refused: AutoDL's
API ignores them, but in a file they are misspelt ones.

::

    name: digits                       replicas: 3                      reuse: deployment
    type: replicaset                   cpu: 4..64                       env: {MODE: fast, HF_TOKEN: }
    image: local                       memory: 24GB..                   ports: {6006: http, 6008: tcp}
    cmd: python serve.py               cuda: 11.8..12.8                 service:
    gpu: RTX 4090:2                    price: ..3.5                       concurrency: 8
    data_centers: [lab-a, lab-b]       cmd_before_shutdown: sync          health_check: {path: /healthz, interval: 2s}
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from muster.cli.spec import values
from muster.cli.spec.document import Document, Problem, Value, parse
from muster.errors import InvalidSpec
from muster.model.deployment import DeploymentType, HealthCheck, ImagePull

_TYPES = {each.value.lower(): each.value for each in DeploymentType}
_PROTOCOLS = {"http": "http", "tcp": "tcp"}
_PULLS = {each.value: each.value for each in ImagePull}
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_CHECK = frozenset({"none", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file means: ``body`` if ``problems`` is empty. ``places`` tells what said each wire field."""

    body: Mapping[str, Any]
    problems: tuple[Problem, ...]
    places: Mapping[str, Value]


def read_deployment(source: str, environ: Mapping[str, str]) -> Reading:
    """Read one deployment file; variables without a value are taken from ``environ``."""
    document = parse(source)
    draft = _Draft(document, environ)
    if document.root is not None:
        draft.read(document.root, _FIELDS)
        draft.finish()
    return Reading(draft.body(), tuple(sorted(document.problems)), draft.said)


@dataclass(slots=True)
class _Draft:
    """The body being filled: ``top`` and ``template`` under wire names, and who said what."""

    document: Document
    environ: Mapping[str, str]
    top: dict[str, Any] = field(default_factory=dict)
    template: dict[str, Any] = field(default_factory=dict)
    said: dict[str, Value] = field(default_factory=dict)

    def read(self, value: Value, known: "Mapping[str, _Field]") -> None:
        """Read the fields of a mapping."""
        for each in self.document.fields(value):
            handler = known.get(each.key)
            if handler is None:
                self.document.unknown(each, known)
            elif not each.is_null or handler is _health_check:
                handler(self, each)

    def put(self, wire: str, content: Any, value: Value, *, in_template: bool) -> None:
        """Set one wire field, once."""
        key = f"container_template.{wire}" if in_template else wire
        target = self.template if in_template else self.top
        before = self.said.get(key)
        if before is not None and target[wire] != content:
            self.document.wrong(value, f"says again what {before.path!r} says in line {before.line}; keep one")
            return
        self.said[key] = value
        target[wire] = content

    def finish(self) -> None:
        """Judge the file as a whole."""
        wrong = {problem.field for problem in self.document.problems}
        for key, names in (
            ("name", "name"),
            ("container_template.image_uuid", "image"),
            ("container_template.cmd", "cmd"),
        ):
            if key not in self.said and not wrong & {names, key, key.rpartition(".")[2], f"container_template.{names}"}:
                self.document.problems.append(Problem(1, names, f"is missing; add {_EXAMPLES[names]}"))
        for kind in ("cpu_num", "memory_size", "cuda_v", "price"):
            lower, upper = self.template.get(f"{kind}_from"), self.template.get(f"{kind}_to")
            if lower is not None and upper is not None and lower > upper > 0:
                value = self.said[f"container_template.{kind}_to"]
                self.document.wrong(value, f"ends at {upper}, below its beginning {lower}; swap them")
        self.top.setdefault("deployment_type", DeploymentType.REPLICA_SET.value)
        self.top.setdefault("replica_num", 1)
        kind = self.top["deployment_type"]
        replicas, parallel = self.said.get("replica_num"), self.said.get("parallelism_num")
        if kind == DeploymentType.CONTAINER and replicas and self.top["replica_num"] != 1:
            self.document.wrong(replicas, "a container is always one; use type: replicaset for more")
        if kind != DeploymentType.JOB and parallel and parallel.key == "parallelism":
            self.document.wrong(parallel, "only a job has it; use replicas, or type: job")
        if kind == DeploymentType.JOB:
            self.top.setdefault("parallelism_num", 1)
        self.template.setdefault("gpu_name_set", [])
        self.template.setdefault("gpu_num", 1)

    def body(self) -> dict[str, Any]:
        """Return the create body."""
        return {**self.top, "container_template": self.template}


_Field = Callable[[_Draft, Value], None]

_EXAMPLES = {
    "name": "a line like 'name: digits'",
    "image": "a line like 'image: local' (see: muster images)",
    "cmd": "a line like 'cmd: python serve.py'",
}


def _parsed(draft: _Draft, value: Value, number: Callable[[str], Any], right: str) -> Any | None:
    """Return what a single value means, or ``None`` after remembering what is wrong with it."""
    written = draft.document.scalar(value, right)
    if written is None:
        return None
    try:
        return number(written)
    except ValueError as error:
        draft.document.wrong(value, str(error))
        return None


def _one(wire: str, number: Callable[[str], Any], right: str, *, in_template: bool = True) -> _Field:
    """Return the reader of a field that holds one value."""

    def read(draft: _Draft, value: Value) -> None:
        content = _parsed(draft, value, number, right)
        if content is not None:
            draft.put(wire, content, value, in_template=in_template)

    return read


def _top(wire: str, number: Callable[[str], Any], right: str) -> _Field:
    return _one(wire, number, right, in_template=False)


def _list(wire: str, right: str) -> _Field:
    """Return the reader of a field that holds several texts, or one."""

    def read(draft: _Draft, value: Value) -> None:
        contents = [_parsed(draft, each, values.text, right) for each in draft.document.items(value)]
        draft.put(wire, [each for each in contents if each is not None], value, in_template=True)

    return read


def _span(wire: str, number: Callable[[str], int], right: str, *, single_is_most: bool = False) -> _Field:
    """Return the reader of a range."""

    def read(draft: _Draft, value: Value) -> None:
        def both(written: str) -> tuple[int | None, int | None]:
            return values.span(written, number, single_is_most=single_is_most)

        bounds = _parsed(draft, value, both, right)
        for suffix, bound in zip(("from", "to"), bounds or (), strict=False):
            if bound is not None:
                draft.put(f"{wire}_{suffix}", bound, value, in_template=True)

    return read


def _gpu(draft: _Draft, value: Value) -> None:
    """Read ``RTX 4090:2``, a list of those, or ``{model: …, count: …}``."""
    names: list[str] = []
    counts: list[int] = []
    if value.is_mapping:
        for each in draft.document.fields(value):
            if each.key == "model":
                found = [_parsed(draft, item, values.text, "RTX 4090") for item in draft.document.items(each)]
                names += [name for name in found if name is not None]
            elif each.key == "count":
                count = _parsed(draft, each, values.positive, "2")
                counts += [count] if count is not None else []
            else:
                draft.document.unknown(each, ("model", "count"))
    else:
        for each in draft.document.items(value):
            model, count = _parsed(draft, each, values.gpu, "RTX 4090:2") or (None, None)
            names += [model] if model is not None else []
            counts += [count] if count is not None else []
    if len(set(counts)) > 1:
        draft.document.wrong(value, f"asks for {sorted(set(counts))} GPUs at once; a container has one number of GPUs")
        return
    if names:
        draft.put("gpu_name_set", names, value, in_template=True)
    if counts:
        draft.put("gpu_num", counts[0], value, in_template=True)


def _environment(draft: _Draft, value: Value) -> None:
    """Read variables: a mapping or a list of ``NAME=value``; a name alone is taken from the shell."""
    pairs: list[tuple[str, str | None, Value]] = []
    if value.is_mapping:
        for each in draft.document.fields(value):
            content = None if each.is_null else draft.document.scalar(each, "one text")
            if each.is_null or content is not None:
                pairs.append((each.key, content, each))
    else:
        for each in draft.document.items(value):
            written = draft.document.scalar(each, "NAME=value or NAME")
            if written is not None:
                name, equals, content = written.partition("=")
                pairs.append((name, content if equals else None, each))
    given: dict[str, str] = {}
    for name, content, each in pairs:
        if _ENV_NAME.fullmatch(name) is None:
            draft.document.wrong(each, f"{name!r} is no name of a variable; use letters, digits and _")
        elif content is None and name not in draft.environ:
            draft.document.wrong(each, f"{name} has no value here and is not set in this shell; give it a value")
        else:
            given[name] = draft.environ[name] if content is None else content
    draft.put("env_vars", given, value, in_template=True)


def _ports(draft: _Draft, value: Value) -> None:
    """Read ``{6006: http, 6008: tcp}``."""
    known = ("6006", "6008")
    for each in draft.document.fields(value):
        if each.key in known:
            _top(f"service_{each.key}_port_protocol", values.word(_PROTOCOLS), "http or tcp")(draft, each)
        else:
            draft.document.wrong(each, f"is no port with an address; only {' and '.join(known)} have one")


def _reuse(draft: _Draft, value: Value) -> None:
    """Read whether stopped containers may be taken over, and whose."""
    words = {**dict.fromkeys(("true", "yes", "on", "all"), "all"), "deployment": "deployment"}
    words |= dict.fromkeys(("false", "no", "off"), "")

    def scope(written: str) -> str:
        if written.lower() not in words:
            raise ValueError(f"{written!r} is not one of true, false, deployment, all")
        return words[written.lower()]

    found = _parsed(draft, value, scope, "true, false, deployment or all")
    if found is None:
        return
    draft.put("reuse_container", bool(found), value, in_template=False)
    if found:
        draft.put("reuse_container_scope", found, value, in_template=False)


def _service(draft: _Draft, value: Value) -> None:
    """Read the extension ``service``."""
    inner = _Draft(draft.document, draft.environ)
    inner.read(value, _SERVICE)
    draft.put("service", inner.top, value, in_template=False)


def _budgets(draft: _Draft, value: Value) -> None:
    """Read named capacities of one container, like ``{tokens: 200000}``."""
    found = {each.key: _parsed(draft, each, values.positive, "100000") for each in draft.document.fields(value)}
    kept = {name: number for name, number in found.items() if number is not None}
    draft.put("budgets", kept, value, in_template=False)


def _health_check(draft: _Draft, value: Value) -> None:
    """Read how readiness is probed: fields, a path, or ``none``."""
    if value.is_null or (not value.is_mapping and not value.is_list and str(value.node.value).lower() in _NO_CHECK):
        draft.put("health_check", None, value, in_template=False)
        return
    inner = _Draft(draft.document, draft.environ)
    if value.is_mapping:
        inner.read(value, _HEALTH_CHECK)
    else:
        path = draft.document.scalar(value, "its fields, a path like /healthz, or none")
        if path is None:
            return
        inner.top["path"] = path
    try:
        check = HealthCheck(**inner.top)
    except InvalidSpec as error:
        name = error.field.rpartition(".")[2]
        draft.document.wrong(inner.said.get(name, value), error.reason)
        return
    draft.put("health_check", asdict(check), value, in_template=False)


def _template(draft: _Draft, value: Value) -> None:
    draft.read(value, _TEMPLATE)


_HEALTH_CHECK: dict[str, _Field] = {
    "path": _top("path", values.text, "/healthz"),
    "port": _top("port", values.positive, "6006"),
    "interval": _top("interval_seconds", values.duration, "2s"),
    "timeout": _top("timeout_seconds", values.duration, "2s"),
    "unhealthy_after": _top("unhealthy_after", values.positive, "3"),
    "stalled_after": _top("stalled_after_seconds", values.duration, "10m"),
    "interval_seconds": _top("interval_seconds", values.duration, "2"),
    "timeout_seconds": _top("timeout_seconds", values.duration, "2"),
    "stalled_after_seconds": _top("stalled_after_seconds", values.duration, "600"),
}

_SERVICE: dict[str, _Field] = {
    "concurrency": _top("concurrency", values.positive, "8"),
    "budgets": _budgets,
    "drain": _top("drain_seconds", values.duration, "30s"),
    "drain_grace": _top("drain_grace_seconds", values.duration, "5s"),
    "ready_within": _top("ready_within_seconds", values.duration, "10m"),
    "health_check": _health_check,
    "drain_seconds": _top("drain_seconds", values.duration, "30"),
    "drain_grace_seconds": _top("drain_grace_seconds", values.duration, "5"),
    "ready_within_seconds": _top("ready_within_seconds", values.duration, "600"),
}

_PORT_TWINS: dict[str, _Field] = {
    f"service_{port}port_protocol": _top(f"service_{port}port_protocol", values.word(_PROTOCOLS), "http or tcp")
    for port in ("6006_", "6008_", "")
}

_TEMPLATE: dict[str, _Field] = {
    "image": _one("image_uuid", values.text, "the image's name or uuid"),
    "pull": _one("image_pull", values.word(_PULLS), "missing or always"),
    "cmd": _one("cmd", values.text, "the command"),
    "cmd_before_shutdown": _one("cmd_before_shutdown", str, "the command"),
    "gpu": _gpu,
    "cpu": _span("cpu_num", values.whole, "4..8"),
    "memory": _span("memory_size", values.memory_gb, "8..64"),
    "cuda": _span("cuda_v", values.cuda, "11.8..12.8"),
    "price": _span("price", values.yuan, "..3.5", single_is_most=True),
    "data_centers": _list("dc_list", "the name of a data center"),
    "env": _environment,
    "ports": _ports,
    "reuse": _reuse,
    # AutoDL's own names
    "image_uuid": _one("image_uuid", values.text, "the image's uuid"),
    "image_pull": _one("image_pull", values.word(_PULLS), "missing or always"),
    "gpu_name_set": _list("gpu_name_set", "the name of a GPU model"),
    "gpu_num": _one("gpu_num", values.positive, "1"),
    **{
        f"{kind}_{bound}": _one(f"{kind}_{bound}", number, right)
        for kind, number, right in (
            ("cpu_num", values.whole, "8"),
            ("memory_size", values.memory_gb, "64"),
            ("cuda_v", values.cuda, "128"),
            ("price", values.whole, "3500"),
        )
        for bound in ("from", "to")
    },
    "cuda_v": _one("cuda_v", values.cuda, "118"),
    "dc_list": _list("dc_list", "the name of a data center"),
    "region_sign": _one("region_sign", str, "the name of a data center"),
    "env_vars": _environment,
    **_PORT_TWINS,
    "reuse_container": _top("reuse_container", values.truth, "true or false"),
    "reuse_container_scope": _top(
        "reuse_container_scope", values.word({"all": "all", "deployment": "deployment"}), "all"
    ),
}

_FIELDS: dict[str, _Field] = {
    "name": _top("name", values.text, "a name"),
    "type": _top("deployment_type", values.word(_TYPES), "replicaset, job or container"),
    "replicas": _top("replica_num", values.whole, "3"),
    "parallelism": _top("parallelism_num", values.positive, "2"),
    "service": _service,
    **_TEMPLATE,
    "deployment_type": _top("deployment_type", values.word(_TYPES), "ReplicaSet, Job or Container"),
    "replica_num": _top("replica_num", values.whole, "3"),
    "parallelism_num": _top("parallelism_num", values.positive, "2"),
    "container_template": _template,
}
