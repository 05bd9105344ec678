"""What a gateway is told: ``gateway.toml`` and flags, read once into one frozen value; a reload reads it anew.

In: built-in defaults < the file < flags. Out: ``GatewayConfig``, or ``SetupError`` in one line: ``gateway.toml:
route[2].path: 'v1' is not …``. A key that is not known is refused, since one that is misspelt would look like one that
works. No secret of a client is in it: an API key is there as its hash. What has to fit together (a key without a
name of its own, a route to nowhere, an address that others reach and no key) is checked here, so that whatever a
reload lets through can be used.

``muster.config`` is not extended: its settings are of one host's Muster, and are not read again while it runs.
"""

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from muster.config import Count, File, Name, Seconds
from muster.errors import SetupError
from muster.home import absolute

DEFAULT_LISTEN = "127.0.0.1:7680"
DEFAULT_STATUS = "127.0.0.1:7681"
MOST_PROCESSES = 256
MOST_KEYS = 10_000
OFF = "off"

_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+)|(?P<name>localhost)?):(?P<port>\d{1,5})")
_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HASH = re.compile(r"[0-9a-f]{64}")


class Bind(tuple[str, int]):
    """An address to listen at: an IP address and a port."""

    __slots__ = ()

    @property
    def is_loopback(self) -> bool:
        """Whether only this host reaches it."""
        return ipaddress.ip_address(self[0]).is_loopback

    def __str__(self) -> str:
        """Return it as it is written in a URL."""
        return f"[{self[0]}]:{self[1]}" if ":" in self[0] else f"{self[0]}:{self[1]}"


def read_bind(written: str) -> Bind:
    """Read ``127.0.0.1:7680``, ``[::1]:7680``, ``localhost:7680`` or ``:7680``. Raises ``ValueError``."""
    found = _ADDRESS.fullmatch(written.strip())
    if found is None or int(found["port"]) > 65535:
        raise ValueError(written)
    host = str(ipaddress.ip_address(found["six"] or found["four"] or "127.0.0.1"))
    return Bind((host, int(found["port"])))


def _bind(value: str) -> str:
    return str(read_bind(value))


def _status(value: str) -> str:
    return OFF if value in {"", OFF} else _bind(value)


def _log_file(value: str) -> str:
    value = value or OFF
    return value if value in {"-", OFF} else str(absolute(value))


def _path(value: str) -> str:
    if not value.startswith("/") or "?" in value or "#" in value or "//" in value or not value.isprintable():
        raise ValueError(value)
    return value


def _host(value: str) -> str:
    lower = value.lower().removesuffix(".")
    if _HOST.fullmatch(lower) is None:
        raise ValueError(value)
    return lower


def _fields(value: dict[str, str]) -> dict[str, str]:
    if not all(_FIELD.fullmatch(each) for each in value):
        raise ValueError(value)
    return {name.lower(): content for name, content in value.items()}


def _hash(value: str) -> str:
    lower = value.lower().removeprefix("sha256:")
    if _HASH.fullmatch(lower) is None:
        raise ValueError(value)
    return lower


Priority = Annotated[int, Field(ge=-1000, le=1000)]
PositiveSeconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65535)]
_NAMES = "a list of names of services"
_SECONDS = "a number of seconds above 0, at most 86400"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class RouteTable(_Table):
    """One ``[[route]]``: which requests, and where they go. A condition that is not given holds for all."""

    path: Annotated[str, AfterValidator(_path)] | None = Field(
        default=None, description="a path like /v1/, which begins with / and has neither // nor ?"
    )
    host: Annotated[str, AfterValidator(_host)] | None = Field(
        default=None, description="a host name like a.example.com or *.example.com, without a port"
    )
    header: Annotated[dict[str, str], AfterValidator(_fields)] = Field(
        default={}, description='a table of header names and values, like {"X-Model" = "a"}; "*" is any value'
    )
    model: tuple[Name, ...] = Field(default=(), description="the name of a model, or a list of names")
    service: Name = Field(description='the name of a service, or "*" for what * stands for in the host')
    port: Port = Field(default=6006, description="a container's port, like 6006")
    strip: bool | Annotated[str, AfterValidator(_path)] = Field(
        default=False, description="true to take the path off, or the part of it that is taken off"
    )
    timeout: PositiveSeconds | None = Field(default=None, description=_SECONDS)
    deadline: PositiveSeconds | None = Field(default=None, description=_SECONDS)
    priority: Priority = Field(default=0, description="a whole number; higher goes first")
    idempotent: bool | None = Field(default=None, description="true or false")
    concurrency: Count | None = Field(default=None, description="how many requests a replica takes, at least 1")
    max_body_mb: float | None = Field(
        default=None, gt=0, le=1_000_000, allow_inf_nan=False, description="a number of MB above 0"
    )


class KeyTable(_Table):
    """One ``[[key]]``: an API key, by the hash of its secret."""

    name: Name = Field(description="a name for the key, which logs show")
    sha256: Annotated[str, AfterValidator(_hash)] = Field(
        repr=False, description="the SHA-256 of the key, 64 hexadecimal digits (muster gateway key NAME makes both)"
    )
    tenant: Name | None = Field(default=None, description="the tenant whose share its requests take")
    priority: Priority = Field(default=0, description="a whole number; higher goes first")
    services: tuple[Name, ...] | None = Field(default=None, description=_NAMES)
    requests_per_second: float | None = Field(
        default=None, gt=0, le=1_000_000, allow_inf_nan=False, description="a number of requests per second above 0"
    )
    burst: Count | None = Field(default=None, description="how many requests may come at once, at least 1")
    concurrency: Count | None = Field(default=None, description="how many requests may be under way, at least 1")
    deadline: PositiveSeconds | None = Field(default=None, description=_SECONDS)
    disabled: bool = Field(default=False, description="true or false")
    revoked: bool = Field(default=False, description="true or false")


class TlsTable(_Table):
    """``[tls]``: what clients are shown."""

    certificate: File = Field(description="the path of a PEM file with the certificate chain")
    key: File = Field(description="the path of a PEM file with the private key")


class LimitsTable(_Table):
    """``[limits]``: what one connection may cost; the defaults are those of ``port.Limits``."""

    head_kb: int = Field(default=64, ge=1, le=1024, description="a number of KB from 1 to 1024")
    head_fields: int = Field(default=256, ge=8, le=10_000, description="a number of header fields from 8 to 10000")
    head_seconds: PositiveSeconds = Field(default=10.0, description=_SECONDS)
    idle_seconds: PositiveSeconds = Field(default=75.0, description=_SECONDS)
    connect_seconds: PositiveSeconds = Field(default=5.0, description=_SECONDS)
    body_seconds: PositiveSeconds = Field(default=60.0, description=_SECONDS)
    replay_kb: int = Field(default=256, ge=0, le=65536, description="a number of KB from 0 to 65536")
    model_body_mb: float = Field(default=1.0, gt=0, le=1024, description="a number of MB above 0, at most 1024")
    services: int = Field(default=256, ge=1, le=10_000, description="a number of services from 1 to 10000")


class GatewayConfig(_Table):
    """Everything that a gateway is told. Build it with ``load``."""

    registry: Name | None = Field(default=None, repr=False, description="the URL of a registry, like file:///path")
    account: Name = Field(default="admin", description="the account whose services these are")
    service: tuple[Name, ...] = Field(default=(), description=_NAMES)
    listen: tuple[Annotated[str, AfterValidator(_bind)], ...] = Field(
        default=(DEFAULT_LISTEN,),
        min_length=1,
        max_length=16,
        description="a list of addresses, each an IP address and a port, like 127.0.0.1:7680 or 0.0.0.0:443",
    )
    processes: int | None = Field(
        default=None, ge=1, le=MOST_PROCESSES, description=f"a number of processes from 1 to {MOST_PROCESSES}"
    )
    open: bool = Field(default=False, description="true to let everybody in who reaches the address")
    require_key: bool | None = Field(default=None, description="true or false")
    drain_seconds: Seconds = Field(default=30.0, description="a number of seconds from 0 to 2592000")
    wait_seconds: PositiveSeconds = Field(default=30.0, description=_SECONDS)
    access_log: Annotated[str, AfterValidator(_log_file)] = Field(
        default="-", description=f'"-" for standard output, a path, or "{OFF}"'
    )
    access_log_query: bool = Field(default=False, description="true or false")
    status: Annotated[str, AfterValidator(_status)] = Field(
        default=DEFAULT_STATUS, description=f'an IP address and a port, like {DEFAULT_STATUS}, or "{OFF}"'
    )
    broker: str | None = Field(default=None, description="the address of a broker, like tls://HOST:7690")
    tls: TlsTable | None = Field(default=None, description="a [tls] table")
    limits: LimitsTable = Field(default_factory=LimitsTable, description="a [limits] table")
    route: tuple[RouteTable, ...] = Field(default=(), max_length=1000, description="a list of [[route]] tables")
    key: tuple[KeyTable, ...] = Field(default=(), max_length=MOST_KEYS, description="a list of [[key]] tables")

    @property
    def registry_url(self) -> str:
        """The registry, which ``load`` has seen to."""
        assert self.registry is not None
        return self.registry

    @property
    def binds(self) -> tuple[Bind, ...]:
        """Where to listen."""
        return tuple(map(read_bind, self.listen))

    @property
    def status_bind(self) -> Bind | None:
        """Where to tell the metrics, ``None`` for nowhere."""
        return None if self.status == OFF else read_bind(self.status)

    @property
    def needs_key(self) -> bool:
        """Whether nobody gets in without a key."""
        return bool(self.key) if self.require_key is None else self.require_key

    @property
    def is_open_to_others(self) -> bool:
        """Whether others than this host reach it."""
        return not all(each.is_loopback for each in self.binds)

    def differs_for_good(self, other: Self) -> list[str]:
        """Return the names of what a reload cannot change, where ``other`` has it differently."""
        fixed = ("listen", "processes", "status", "registry", "account", "broker")
        named = [name for name in fixed if getattr(self, name) != getattr(other, name)]
        return [*named, "tls"] if (self.tls is None) != (other.tls is None) else named


def load(path: Path | None, flags: Mapping[str, Any]) -> GatewayConfig:
    """Read the file, if there is one, and flags, of which those that are ``None`` were not given.

    Raises ``SetupError``, one line that names the file or flag and says what would be right.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    table = {} if path is None else _read_toml(path)
    for each in table.get("route", ()) if isinstance(table.get("route"), list) else ():
        if isinstance(each, dict) and isinstance(each.get("model"), str):
            each["model"] = [each["model"]]
    try:
        config = GatewayConfig(**{**table, **given})
    except ValidationError as error:
        # What was refused does not count as given, so pydantic may find too little of it, too.
        found = [each for each in error.errors() if each["type"] != "too_short" or not each["input"]]
        said = {each["loc"][:3]: _explain(each, path, given) for each in reversed(found)}
        raise SetupError("; ".join(reversed(said.values()))) from None  # its own text shows all that was given
    _check(config, str(path) if path is not None else "muster gateway")
    return config


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise SetupError(f"{path}: there is no such file; --config must name one") from None
    except OSError as error:
        raise SetupError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also numbers and brackets without an end
        raise SetupError(f"{path}: is not TOML: {error}") from error


def _check(config: GatewayConfig, where: str) -> None:
    """Raise ``SetupError`` for what does not fit together."""
    if not config.registry:
        raise SetupError(f"{where}: registry: is missing; name one by --registry, like file:///FOLDER or redis://HOST")
    for at, route in enumerate(config.route):
        _check_route(route, f"{where}: route[{at}]")
    if config.route and config.service:
        raise SetupError(f"{where}: service: routes say where requests go; leave out --service, or the routes")
    _check_keys(config.key, where)
    if config.require_key and not config.key:
        raise SetupError(
            f"{where}: require_key: without a [[key]] nobody could get in; `muster gateway key NAME` makes one"
        )
    if config.is_open_to_others and not config.needs_key and not config.open:
        raise SetupError(
            f"{where}: listen: {', '.join(config.listen)} is reached by others, and nobody has to show a key: add a"
            " [[key]] (`muster gateway key NAME` makes one), listen on 127.0.0.1, or say --open to let everybody in"
        )


def _check_route(route: RouteTable, where: str) -> None:
    if route.service == "*" and not (route.host or "").startswith("*."):
        raise SetupError(f'{where}.service: "*" is what * stands for in the host; write host = "*.example.com"')
    if route.strip is not False and route.path is None:
        raise SetupError(f"{where}.strip: there is no path of which anything could be taken off")
    if isinstance(route.strip, str) and not f"{(route.path or '').rstrip('/')}/".startswith(
        route.strip.rstrip("/") + "/"
    ):
        raise SetupError(f"{where}.strip: {route.strip!r} is not how the path {route.path!r} begins")


def _check_keys(keys: Iterable[KeyTable], where: str) -> None:
    names: dict[str, int] = {}
    hashes: dict[str, int] = {}
    for at, key in enumerate(keys):
        if names.setdefault(key.name, at) != at:
            raise SetupError(f"{where}: key[{at}].name: {key.name!r} is key[{names[key.name]}]'s already")
        if hashes.setdefault(key.sha256, at) != at:
            raise SetupError(f"{where}: key[{at}].sha256: is the same key as key[{hashes[key.sha256]}]")
        if key.burst is not None and key.requests_per_second is None:
            raise SetupError(f"{where}: key[{at}].burst: says nothing without requests_per_second")


_TABLES: Mapping[str, type[BaseModel]] = {
    "route": RouteTable,
    "key": KeyTable,
    "tls": TlsTable,
    "limits": LimitsTable,
}


def _explain(error: ErrorDetails, path: Path | None, given: Mapping[str, Any]) -> str:
    """Say in one line where a value came from, what is wrong with it and what would be right."""
    top = str(error["loc"][0])
    model: type[BaseModel] = GatewayConfig
    key, description, is_named = "", "something else", True
    for part in error["loc"]:
        if isinstance(part, int):
            key += f"[{part}]"
            continue
        found = model.model_fields.get(part) if is_named else None
        if not is_named or (found is None and error["type"] != "extra_forbidden"):
            continue  # a branch of a union, which pydantic names too
        key += f".{part}" if key else part
        if found is None:
            continue
        description = found.description or description
        is_named = part in _TABLES
        model = _TABLES.get(part, model)
    where = f"--{top.replace('_', '-')}" if top in given else f"{path or 'muster gateway'}: {key}"
    if error["type"] == "extra_forbidden":
        known = list(model.model_fields)
        close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return f"{where}: unknown key; " + (f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}")
    if error["type"] == "missing":
        return f"{where}: is missing; give {description}"
    value = "what is there" if key.endswith((".sha256", "registry")) else repr(error["input"])
    return f"{where}: {value} is not {description}"
