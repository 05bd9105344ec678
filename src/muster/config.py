"""Settings of the processes: read once, at the edge, and passed down as one frozen value.

In: built-in defaults < ``muster.toml`` (in the home folder, or named by ``--config`` or ``MUSTER_CONFIG``) <
``MUSTER_*`` < flags. Out: ``Settings``, which also remembers where each value came from. Nothing below ``processes``
reads the environment; whoever needs a setting is given it.

The description of each field is written as *what would be right*, because it is the second half of the error that a
wrong value gets: ``muster.toml: port: 'abc' is not a port number from 0 to 65535``. Unknown keys of the file are
refused (a misspelt key that does nothing is worse than an error); unknown ``MUSTER_*`` variables are not, since
containers and the CLI have their own. Prices are yuan per GPU-hour here and in deployment files; only the API speaks
of 1/1000 yuan.

Refused: ``.env`` files, reloading while running, and sources merged deep inside the settings class, where the origin
of a value is lost.
"""

import datetime
import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from muster.errors import InvalidSpec, SetupError
from muster.home import PROFILE, absolute, default_home
from muster.model.quantity import cuda_number
from muster.model.url import shown

PREFIX = "MUSTER_"
FILE = "muster.toml"
DOCKER_SOCKET = "unix:///var/run/docker.sock"

_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")


def _cuda(value: object) -> int:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return cuda_number(value)
        except InvalidSpec as error:
            raise ValueError(error.reason) from error
    raise ValueError("not a version")


def _time_zone(value: str) -> str:
    match = _OFFSET.fullmatch(value)
    if match is None or int(match[2]) > 14 or int(match[3]) > 59:
        raise ValueError("not an offset")
    return value


def _folder(value: object) -> object:
    if value == "":  # as a path it would be the working directory
        raise ValueError("not a path")
    return value


def _port_range(value: str) -> str:
    first, dash, last = value.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= 65535):
        raise ValueError("not a range")
    return value


def ports_of(text: str) -> range:
    """Read a range of ports."""
    first, _, last = text.partition("-")
    return range(int(first), int(last) + 1)


def _docker_host(value: str) -> str:
    if not value.startswith(("unix:///", "tcp://")):
        raise ValueError("not an address of Docker")
    return value


def _broker_urls(value: str) -> str:
    urls = [each.strip() for each in value.split(",")]
    if not all(re.fullmatch(r"(tls|tcp)://[^\s/]+|unix:///\S+", each) for each in urls):
        raise ValueError("not an address of a broker")
    return ",".join(urls)


Name = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]
Count = Annotated[int, Field(ge=1, le=100_000)]
Cuda = Annotated[int, BeforeValidator(_cuda)]
Yuan = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=30 * 86400, allow_inf_nan=False)]
Days = Annotated[float, Field(ge=0, le=36500, allow_inf_nan=False)]
Folder = Annotated[Path, BeforeValidator(_folder), AfterValidator(absolute)]
File = Folder
PortRange = Annotated[str, AfterValidator(_port_range)]
"""``FIRST-LAST``, both included; ``config.ports_of`` reads it."""


class GpuDefaults(BaseModel):
    """What one GPU brings along where nothing else is said; the price is also that of found GPUs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu_num: Count = Field(default=16, description="a number of vCPUs per GPU, at least 1")
    memory_gb: Count = Field(default=64, description="a whole number of GB per GPU, at least 1")
    cuda: Cuda = Field(default=128, description="a CUDA version like 12.8 (or 128)")
    price: Yuan = Field(default=1.98, description="a price in yuan per GPU-hour, at least 0")

    @property
    def price_milliyuan(self) -> int:
        """The price in the unit of the model."""
        return round(self.price * 1000)


class MachineDeclaration(BaseModel):
    """One ``[[machines]]`` table: a machine that this host is to offer. CPU and memory are of the whole machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu_name: Name = Field(description="a GPU model, as users will ask for it")
    gpu_num: Count = Field(default=1, description="a number of GPUs, at least 1")
    data_center: Name = Field(default="local", description="the name of a data center")
    cpu_num: Count | None = Field(default=None, description="the machine's number of vCPUs, at least 1")
    memory_gb: Count | None = Field(default=None, description="the machine's memory in whole GB, at least 1")
    cuda: Cuda | None = Field(default=None, description="a CUDA version like 12.8 (or 128)")
    price: Yuan | None = Field(default=None, description="a price in yuan per GPU-hour, at least 0")
    disk_gb: int = Field(default=0, ge=0, description="the machine's disk in whole GB")
    devices: tuple[Name, ...] = Field(
        default=(), description="a list that names each of its GPUs as `nvidia-smi -L` does, by index or uuid"
    )


class Settings(BaseSettings):
    """Everything that an operator may set. Build it with ``load_settings``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    home: Annotated[Path, AfterValidator(absolute)] = Field(
        default_factory=default_home, description="the path of a folder"
    )
    host: Name = Field(default="127.0.0.1", description="a host name or IP address to listen on")
    port: int = Field(default=7600, ge=0, le=65535, description="a port number from 0 to 65535 (0: any free one)")
    engine: Literal["auto", "local", "docker"] = Field(default="auto", description="auto, local or docker")
    docker_host: Annotated[str, AfterValidator(_docker_host)] | None = Field(
        default=None, description="the address of a Docker daemon, like unix:///run/docker.sock or tcp://10.0.0.7:2375"
    )
    fake_gpus: Name | None = Field(
        default=None, description="machines to fake, like '2x4xRTX 4090@lab-a,1x2xRTX 3090@lab-b'"
    )
    gpu_defaults: GpuDefaults = Field(default_factory=GpuDefaults, description="a [gpu_defaults] table")
    machines: tuple[MachineDeclaration, ...] = Field(default=(), description="a list of [[machines]] tables")
    data_center: Name = Field(default="local", description="the name of the data center that this host is in")
    public_host: Name | None = Field(
        default=None, description="the host name or IP address by which others reach this host"
    )
    ingress: bool = Field(default=True, description="true, or false for no ingress: addresses are the containers' own")
    ingress_host: Name | None = Field(
        default=None, description="a host name or IP address that containers' addresses and SSH logins listen on"
    )
    ingress_ports: PortRange = Field(default="20000-24999", description="a range of ports like 20000-24999")
    ssh_ports: PortRange = Field(default="25000-29999", description="a range of ports like 25000-29999")
    ingress_domain: Name | None = Field(
        default=None, description="a domain whose names below it all lead here, like gpu.example.com"
    )
    ingress_domain_port: int = Field(default=443, ge=1, le=65535, description="a port number from 1 to 65535")
    ingress_status_port: int = Field(default=7610, ge=0, le=65535, description="a port number from 0 to 65535")
    ingress_connections: int = Field(
        default=10_000, ge=1, le=1_000_000, description="how many connections may be open at once, at least 1"
    )
    broker: bool = Field(default=True, description="true, or false for no broker: each client has a queue of its own")
    broker_host: Name | None = Field(default=None, description="a host name or IP address for the broker to listen on")
    broker_port: int = Field(
        default=7690, ge=0, le=65535, description="a port number from 0 to 65535 (0: any free one)"
    )
    broker_url: Annotated[str, AfterValidator(_broker_urls)] | None = Field(
        default=None, description="addresses of brokers, like tls://a.lab:7690,tls://b.lab:7690"
    )
    broker_queue: int = Field(
        default=4096, ge=1, le=1_000_000, description="how many requests may wait for one service, at least 1"
    )
    broker_status: str | None = Field(default=None, description="an address like 127.0.0.1:7691")
    tls_certificate: File | None = Field(default=None, description="the path of a PEM file with the certificate chain")
    tls_key: File | None = Field(default=None, description="the path of a PEM file with the private key")
    tls_ca: File | None = Field(
        default=None, description="the path of a PEM file: who signed the certificate, if clients do not know"
    )
    registry: Name | None = Field(default=None, description="the URL of a registry, like file:///path")
    file_storage: Folder | None = Field(
        default=None, description="the path of a mounted folder that holds .muster-storage"
    )
    public_data: Folder | None = Field(
        default=None, description="the path of a folder that all containers may read at /root/autodl-pub"
    )
    time_zone: Annotated[str, AfterValidator(_time_zone)] = Field(default="+08:00", description="an offset like +08:00")
    admin_token: SecretStr | None = Field(default=None, min_length=8, description="a token of at least 8 characters")
    drain_seconds: float | None = Field(
        default=None, ge=0, le=86400, allow_inf_nan=False, description="a number of seconds from 0 to 86400"
    )
    keep_stopped_seconds: Seconds = Field(default=3600.0, description="a number of seconds from 0 to 2592000")
    keep_reusable_seconds: Seconds = Field(
        default=7 * 86400.0, description="a number of seconds from 0 to 2592000 (AutoDL keeps 7 days)"
    )
    # Room for one more image of the usual size: CUDA and a framework unpack to 8 to 10 GB, and without it a pull fails.
    keep_free_gb: int = Field(default=10, ge=0, le=1_000_000, description="a whole number of GB, or 0 for no limit")
    lost_after_seconds: float = Field(default=60.0, ge=1, le=86400, description="a number of seconds from 1 to 86400")
    full_pass_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="a number of seconds above 0, at most 3600"
    )
    rate_limit: float = Field(
        default=50.0,
        ge=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="a number of requests per second and token, or 0 for no limit",
    )
    keep_events_days: Days = Field(default=30.0, description="a number of days, or 0 for ever")
    keep_containers_days: Days = Field(default=30.0, description="a number of days, or 0 for ever")
    keep_audit_days: Days = Field(default=365.0, description="a number of days, or 0 for ever")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error"
    )

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _tables: ClassVar[Mapping[str, type[BaseModel]]] = {"machines": MachineDeclaration, "gpu_defaults": GpuDefaults}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what ``load_settings`` merged and nothing else, so that a bare ``Settings(...)`` is hermetic."""
        return (init_settings,)

    @property
    def url(self) -> str:
        """Where the API answers on this host (port 0 becomes known only when the server listens)."""
        return f"http://{'127.0.0.1' if self.host in ('0.0.0.0', '::') else self.host}:{self.port}"  # noqa: S104

    @property
    def docker_url(self) -> str:
        """Where the Docker daemon answers: as told, else as ``DOCKER_HOST`` says, else at its usual socket."""
        told = os.environ.get("DOCKER_HOST", "")
        return self.docker_host or (told if told.startswith(("unix:///", "tcp://")) else DOCKER_SOCKET)

    @property
    def registry_url(self) -> str:
        """Where endpoint sets are published: the one told, or a folder of the home."""
        return self.registry or (self.home / "registry").as_uri()

    @property
    def reachable_host(self) -> str:
        """By which name others reach this host."""
        return self.public_host or ("127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host)  # noqa: S104

    @property
    def longest_drain_seconds(self) -> float:
        """How long requests in flight may take to end: as told, else 30 s, or 2 where no ingress can count them."""
        default = 30.0 if self.ingress else 2.0
        return default if self.drain_seconds is None else self.drain_seconds

    @property
    def ingress_public_host(self) -> str:
        """By which name clients reach containers' addresses."""
        host = self.ingress_listen_host
        return self.public_host or ("127.0.0.1" if host in ("0.0.0.0", "::") else host)  # noqa: S104

    @property
    def ingress_listen_host(self) -> str:
        """Where containers' addresses listen: as told, else where the API does."""
        return self.ingress_host or self.host

    @property
    def broker_listen_host(self) -> str:
        """Where the broker listens: as told, else where the API does."""
        return self.broker_host or self.host

    @property
    def broker_public_host(self) -> str:
        """By which name clients reach the broker."""
        host = self.broker_listen_host
        return self.public_host or ("127.0.0.1" if host in ("0.0.0.0", "::") else host)  # noqa: S104

    @property
    def profile_path(self) -> Path:
        """Where ``muster.home.write_profile`` leaves URL and token for the next command."""
        return self.home / PROFILE

    @property
    def tzinfo(self) -> datetime.timezone:
        """The zone in which the API shows times."""
        sign, hours, minutes = cast("re.Match[str]", _OFFSET.fullmatch(self.time_zone)).groups()
        offset = datetime.timedelta(hours=int(hours), minutes=int(minutes))
        return datetime.timezone(-offset if sign == "-" else offset)

    def environment(self) -> dict[str, str]:
        """Return the ``MUSTER_*`` variables from which a child process reads these same settings.

        Values are secret: they go into an environment, never onto a command line or into a log.
        """
        plain = self.model_dump(mode="json", exclude_none=True, exclude={"admin_token", "machines", "gpu_defaults"})
        variables = {f"{PREFIX}{name.upper()}": str(value) for name, value in plain.items()}
        variables[f"{PREFIX}GPU_DEFAULTS"] = self.gpu_defaults.model_dump_json()
        if self.machines:
            body = ",".join(machine.model_dump_json(exclude_none=True) for machine in self.machines)
            variables[f"{PREFIX}MACHINES"] = f"[{body}]"
        if self.admin_token is not None:
            variables[f"{PREFIX}ADMIN_TOKEN"] = self.admin_token.get_secret_value()
        return variables

    def shown(self) -> dict[str, tuple[Any, str]]:
        """Return each field's value as JSON would hold it, secrets masked, and where it came from."""
        values = self.model_dump(mode="json")
        values["registry"] = shown(self.registry_url)
        return {name: (value, self._origins.get(name, "default")) for name, value in values.items()}

    def _with_origins(self, origins: Mapping[str, str]) -> Self:
        self._origins.update(origins)
        return self


def load_settings(flags: Mapping[str, Any] | None = None, *, config: str | Path | None = None) -> Settings:
    """Read the settings of this process; ``flags`` that are ``None`` were not given.

    Raises ``SetupError``, one line that names the file, variable or flag and says what would be right.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        variables = EnvSettingsSource(Settings)()
    except SettingsError as error:
        raise SetupError(f"{PREFIX}*: {error}: tables are written as JSON") from error
    path, is_named = _config_path(given, config)
    table = _read_toml(path, is_named=is_named)
    if "home" in table and not is_named:
        raise SetupError(f"{path}: home: the file lies in the home folder; use --home or MUSTER_HOME")
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for values, named_by in ((table, "{path}"), (variables, PREFIX + "{upper}"), (given, "--{dashed}")):
        merged.update(values)
        for name in values:
            origins[name] = named_by.format(path=path, upper=name.upper(), dashed=name.replace("_", "-"))
    try:
        return Settings(**merged)._with_origins(origins)  # noqa: SLF001 it is our own class
    except ValidationError as error:
        raise SetupError("; ".join(_explain(each, origins) for each in error.errors())) from error


def _config_path(given: Mapping[str, Any], config: str | Path | None) -> tuple[Path, bool]:
    """Return the file to read, and whether somebody named it (then it must exist)."""
    named = config or os.environ.get(f"{PREFIX}CONFIG")
    if named:
        return absolute(named), True
    home = absolute(given["home"]) if "home" in given else default_home()
    return home / FILE, False


def _read_toml(path: Path, *, is_named: bool) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        if is_named:
            raise SetupError(f"{path}: there is no such file; --config and MUSTER_CONFIG must name one") from None
        return {}
    except NotADirectoryError as error:
        raise SetupError(f"{path.parent}: is no folder and cannot become one; choose another with --home") from error
    except OSError as error:
        raise SetupError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: is not TOML: {error}") from error


def _explain(error: ErrorDetails, origins: Mapping[str, str]) -> str:
    """Say in one line where a value came from, what is wrong with it and what would be right."""
    top, *rest = error["loc"]
    model: type[BaseModel] = Settings
    key = ""
    description = "something else"
    for part in error["loc"]:
        if isinstance(part, int):
            key += f"[{part}]"
            continue
        key += f".{part}" if key else part
        found = model.model_fields.get(part)
        if found is None:
            continue
        description = found.description or description
        model = Settings._tables.get(part, model)  # noqa: SLF001 it is our own class
    origin = origins.get(str(top), FILE)
    names_itself = not rest and origin.startswith((PREFIX, "--"))
    where = origin if names_itself else f"{origin}: {key}"
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(error["loc"][-1]), list(model.model_fields), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(model.model_fields))}"
        return f"{where}: unknown key; {hint}"
    if error["type"] == "missing":
        return f"{where}: is missing; give {description}"
    value = "the value (secret)" if top == "admin_token" else repr(error["input"])
    return f"{where}: {value} is not {description}"
