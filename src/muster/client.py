"""A typed, synchronous client of the Muster API: what the CLI is built on, and scripts may be.

It owns the wire shapes seen from outside: methods take and return small frozen values, so that a caller never
handles an envelope, a page or a time as text. Memory is in bytes and prices in 1/1000 yuan per GPU-hour, whatever the
wire says. It needs httpx and the model, never the server.

Two families of paths are called. Those of AutoDL answer HTTP 200 with an envelope whose ``code`` tells success;
Muster's own under ``/api/v1/muster`` use status codes. Both become the same exceptions here: ``Unauthenticated``,
``NotFound``, ``CursorExpired``, ``ApiError`` for every other refusal, and ``ApiUnavailable`` with a one-line hint when
nobody answers.

Refused: an async twin (the CLI needs none, and two copies drift apart), retries (a caller knows what is safe to
repeat), and classes for requests: a deployment is created from the JSON object that AutoDL documents.
"""

import datetime
import json
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from muster.errors import ApiError, ApiUnavailable, CursorExpired, InvalidSpec, MusterError, NotFound, Unauthenticated
from muster.model.endpoint import EndpointSet

DEFAULT_URL = "http://127.0.0.1:7600"
_DEV = "/api/v1/dev"
_MUSTER = "/api/v1/muster"
_PAGE_SIZE = 100
_SILENCE_SECONDS = 60.0
"""The server sends at least an empty line every 10 s into an event stream: after six of them it is gone."""
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Deployment:
    """One row of the list of deployments. ``price_milliyuan`` is what its running containers cost in an hour."""

    uuid: str
    name: str
    type: str
    status: str
    replica_num: int
    parallelism_num: int
    starting_num: int
    running_num: int
    ready_num: int
    finished_num: int
    image_uuid: str
    gpu_names: tuple[str, ...]
    gpu_num: int
    price_milliyuan: int
    created_at: datetime.datetime
    updated_at: datetime.datetime
    stopped_at: datetime.datetime | None


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A wanted container that no machine fits, and why."""

    id: str
    created_at: datetime.datetime
    explanation: str


@dataclass(frozen=True, slots=True)
class DeploymentDetail:
    """Everything about one deployment. ``spec`` is the JSON object that would create it, every field spelled out."""

    deployment: Deployment
    version: str
    spec: Mapping[str, Any]
    unplaced: tuple[Unplaced, ...]


@dataclass(frozen=True, slots=True)
class Container:
    """One placed container. Urls are empty while they are not known; so is ``reason`` while it is well."""

    uuid: str
    deployment_uuid: str
    version: str
    status: str
    is_ready: bool
    reason: str
    message: str
    exit_code: int | None
    reused_from: str | None
    machine_id: str
    data_center: str
    gpu_name: str
    gpu_num: int
    cpu_num: int
    memory_bytes: int
    price_milliyuan: int
    image_uuid: str
    url_6006: str
    url_6008: str
    ssh_command: str
    root_password: str
    created_at: datetime.datetime
    updated_at: datetime.datetime
    started_at: datetime.datetime | None
    stopped_at: datetime.datetime | None


@dataclass(frozen=True, slots=True)
class Event:
    """One recorded transition. ``id`` is the cursor after it; ``kind`` is ``status``, ``ready`` or ``unready``."""

    id: int
    kind: str
    deployment_uuid: str
    container_uuid: str
    status: str
    reason: str
    message: str
    exit_code: int | None
    created_at: datetime.datetime


@dataclass(frozen=True, slots=True)
class Machine:
    """A host and which of its GPUs are taken."""

    id: str
    data_center: str
    gpu_name: str
    gpu_num: int
    cpu_num: int
    memory_bytes: int
    cuda: int
    price_milliyuan: int
    chip_corp: str
    cpu_arch: str
    claimed_gpus: tuple[int, ...]

    @property
    def idle_gpu_num(self) -> int:
        """How many GPUs nobody holds."""
        return self.gpu_num - len(self.claimed_gpus)


@dataclass(frozen=True, slots=True)
class Stock:
    """How many GPUs of one model there are."""

    gpu_name: str
    idle_gpu_num: int
    total_gpu_num: int
    chip_corp: str
    cpu_arch: str


@dataclass(frozen=True, slots=True)
class Image:
    """An entry of the catalogue."""

    uuid: str
    name: str


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant."""

    id: int
    name: str
    role: str
    created_at: datetime.datetime


class Client:
    """Talks to one Muster server as one account; close it, or use it as a context manager.

    ``timeout`` is for each call in seconds; streams wait for what comes next as long as the server is there.
    Iterators call the server when they are read, so that is when they raise and when "now" is.

    Safe for several threads. Raises ``InvalidSpec`` for what cannot be a url, ``Unauthenticated`` for what cannot be
    a token.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        token: str = "",
        *,
        timeout: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        host = _host(base_url)
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise Unauthenticated("the token holds characters that no token has")
        self.base_url = base_url.rstrip("/")
        self._timeout = timeout
        self._http = httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": token, "Content-Type": "application/json"} if token else {},
            timeout=timeout,
            transport=transport,
            trust_env=host not in _LOOPBACK,  # a proxy of the environment cannot reach our own loopback
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # Deployments

    def create_deployment(self, body: Mapping[str, Any]) -> str:
        """Create a deployment from AutoDL's JSON object; returns its uuid."""
        return str(self._dev("POST", "/deployment", body)["deployment_uuid"])

    def check_deployment(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Judge a body for ``create_deployment`` without creating; returns it with every default spelled out.

        The result compares field by field with ``DeploymentDetail.spec``.
        """
        return dict(self._muster("POST", "/deployments/check", body)["spec"])

    def deployments(self, *, name: str | None = None, status: str | None = None) -> Iterator[Deployment]:
        """Yield the account's deployments, newest first, page by page."""
        body = {"name": name or "", "status": status or ""}
        return (_deployment(row) for row in self._pages(f"{_DEV}/deployment/list", body))

    def deployment(self, uuid: str) -> DeploymentDetail:
        """Return one deployment with its specification and what keeps it from being placed."""
        wire = self._muster("GET", f"/deployments/{_segment(uuid)}", named=("deployment", uuid))
        return DeploymentDetail(
            deployment=_deployment(wire),
            version=wire["version"],
            spec=wire["spec"],
            unplaced=tuple(
                Unplaced(each["id"], _time(each["created_at"]), each["explanation"]) for each in wire["unplaced"]
            ),
        )

    def scale_deployment(self, uuid: str, replica_num: int) -> None:
        """Want another number of replicas; returns at once."""
        body = {"deployment_uuid": uuid, "replica_num": replica_num}
        self._dev("PUT", "/deployment/replica_num", body, named=("deployment", uuid))

    def stop_deployment(self, uuid: str) -> None:
        """Stop a deployment for good, with all its containers; returns at once."""
        body = {"deployment_uuid": uuid, "operate": "stop"}
        self._dev("PUT", "/deployment/operate", body, named=("deployment", uuid))

    def delete_deployment(self, uuid: str) -> None:
        """Stop and delete a deployment; returns at once."""
        self._dev("DELETE", "/deployment", {"deployment_uuid": uuid}, named=("deployment", uuid))

    # Containers

    def containers(
        self, deployment_uuid: str | None = None, *, statuses: Sequence[str] = (), is_released: bool = False
    ) -> Iterator[Container]:
        """Yield placed containers, newest first, page by page; of the whole account when no deployment is named."""
        body: dict[str, Any] = {"status": list(statuses), "released": is_released}
        if deployment_uuid:
            body["deployment_uuid"] = deployment_uuid
        rows = self._pages(f"{_DEV}/deployment/container/list", body, named=("deployment", deployment_uuid or ""))
        return (_container(row) for row in rows)

    def containers_of(self, deployment_uuid: str) -> list[Container]:
        """Return all placed, unfinished containers of a deployment and the latest finished ones, oldest first."""
        path = f"/deployments/{_segment(deployment_uuid)}/containers"
        wire = self._muster("GET", path, named=("deployment", deployment_uuid))
        return [_container(row) for row in wire["containers"]]

    def stop_container(
        self,
        uuid: str,
        *,
        decrease_one_replica_num: bool = False,
        no_cache: bool = False,
        cmd_before_shutdown: str | None = None,
    ) -> None:
        """Stop one container; returns at once. Without the decrease another one takes its place."""
        body: dict[str, Any] = {
            "deployment_container_uuid": uuid,
            "decrease_one_replica_num": decrease_one_replica_num,
            "no_cache": no_cache,
        }
        if cmd_before_shutdown is not None:
            body["cmd_before_shutdown"] = cmd_before_shutdown
        self._dev("PUT", "/deployment/container/stop", body, named=("container", uuid))

    def logs(self, container_uuid: str, *, tail: int | None = None, follow: bool = False) -> Iterator[bytes]:
        """Yield a container's output as it arrives; ``follow`` goes on until the container has ended."""
        params: dict[str, Any] = {"follow": follow}
        if tail is not None:
            params["tail"] = tail
        path = f"{_MUSTER}/containers/{_segment(container_uuid)}/logs"
        with self._stream(path, params, media_type="text/plain", named=("container", container_uuid)) as response:
            yield from response.iter_bytes()

    # Events

    def container_events(self, deployment_uuid: str, container_uuid: str = "") -> Iterator[Event]:
        """Yield the lifecycle events of a deployment or one container, newest first, page by page."""
        body = {"deployment_uuid": deployment_uuid, "deployment_container_uuid": container_uuid}
        rows = self._pages(f"{_DEV}/deployment/container/event/list", body, named=("deployment", deployment_uuid))
        return (_event(row) for row in rows)

    def events(
        self, *, after: int | None = None, deployment_uuid: str | None = None, follow: bool = True
    ) -> Iterator[Event]:
        """Yield the account's events of every kind after a cursor, oldest first, and then each new one.

        ``after=None`` starts now, ``after=0`` at the oldest event kept; resume with the ``id`` of the last one seen.
        ``follow=False`` ends with the newest. Raises ``CursorExpired`` when events after the cursor were pruned, and
        ``ApiUnavailable`` when the server goes away.
        """
        params: dict[str, Any] = {"follow": follow}
        if after is not None:
            params["after"] = after
        if deployment_uuid is not None:
            params["deployment_uuid"] = deployment_uuid
        named = ("deployment", deployment_uuid or "")
        path, kind = f"{_MUSTER}/events", "application/x-ndjson"
        with self._stream(path, params, media_type=kind, named=named, silence_seconds=_SILENCE_SECONDS) as response:
            for line in response.iter_lines():
                if line.strip():  # an empty line only says that the server is still there
                    wire = json.loads(line)
                    if "error" in wire:
                        raise _refusal(wire["error"], 410, ("", ""))
                    yield _event(wire)

    # Images, machines, discovery

    def private_images(self) -> Iterator[Image]:
        """Yield the account's own images."""
        return (Image(row["image_uuid"], row["name"]) for row in self._pages(f"{_DEV}/image/private/list", {}))

    def base_images(self) -> Iterator[Image]:
        """Yield the images of the platform."""
        return (Image(row["image_uuid"], row["name"]) for row in self._pages("/api/v2/image/list", {}))

    def machines(self) -> list[Machine]:
        """Return the machines on offer and which of their GPUs are taken."""
        return [_machine(row) for row in self._muster("GET", "/machines")["machines"]]

    def stock(self, *, data_centers: Sequence[str] = (), gpu_names: Sequence[str] = ()) -> list[Stock]:
        """Return idle and total GPUs by model, of some data centers and models or of all."""
        body = {"dc_list": list(data_centers), "gpu_name_set": list(gpu_names)}
        return [
            Stock(name, row["idle_gpu_num"], row["total_gpu_num"], row["chip_corp"], row["cpu_arch"])
            for entry in self._dev("POST", "/machine/region/gpu_stock", body)
            for name, row in entry.items()
        ]

    def endpoints(self, service: str, port: int = 6006) -> EndpointSet:
        """Return who serves a service (a name or a deployment uuid) now; ``NotFound`` while that is unknown."""
        params = {"service": service, "port": port}
        response = self._call("GET", f"{_MUSTER}/endpoints", params=params, named=("service", service))
        return EndpointSet.from_json(response.content)

    # Accounts

    def me(self) -> Account:
        """Return the account that the token acts for."""
        return _account(self._muster("GET", "/me"))

    def accounts(self) -> list[Account]:
        """Return all accounts; admins only."""
        return [_account(row) for row in self._muster("GET", "/accounts")["accounts"]]

    def create_account(self, name: str, role: str = "member") -> Account:
        """Create an account without a token; admins only."""
        return _account(self._muster("POST", "/accounts", {"name": name, "role": role}))

    def create_token(self, account_name: str) -> str:
        """Make a token for an account and return it; it cannot be read again. Admins only."""
        path = f"/accounts/{_segment(account_name)}/tokens"
        return str(self._muster("POST", path, {}, named=("account", account_name))["token"])

    # Health

    def is_alive(self) -> bool:
        """Tell whether the server answers at all."""
        return self._probe("/healthz")

    def is_ready(self) -> bool:
        """Tell whether the server answers and says that it is ready to serve."""
        return self._probe("/readyz")

    # The wire

    def _probe(self, path: str) -> bool:
        try:
            return self._http.get(path).is_success
        except httpx.HTTPError:
            return False

    def _dev(self, method: str, path: str, body: Mapping[str, Any], *, named: tuple[str, str] = ("", "")) -> Any:
        return self._call(method, _DEV + path, body=body, named=named).json()["data"]

    def _muster(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, named: tuple[str, str] = ("", "")
    ) -> Any:
        return self._call(method, _MUSTER + path, body=body, named=named).json()

    def _pages(
        self, path: str, body: Mapping[str, Any], *, named: tuple[str, str] = ("", "")
    ) -> Iterator[Mapping[str, Any]]:
        # rows that are added meanwhile push others to the next page: those are seen twice, none is missed
        index = 1
        while True:
            page = {**body, "page_index": index, "page_size": _PAGE_SIZE}
            data = self._call("POST", path, body=page, named=named).json()["data"]
            yield from data["list"]
            if index >= data["max_page"]:
                return
            index += 1

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        named: tuple[str, str],
    ) -> httpx.Response:
        with self._reachable():
            response = self._http.request(method, path, json=body, params=params)
        _check(response, named, "application/json")
        return response

    @contextmanager
    def _stream(
        self,
        path: str,
        params: Mapping[str, Any],
        *,
        media_type: str,
        named: tuple[str, str],
        silence_seconds: float | None = None,
    ) -> Iterator[httpx.Response]:
        timeout = httpx.Timeout(self._timeout, read=silence_seconds)
        with self._reachable(), self._http.stream("GET", path, params=params, timeout=timeout) as response:
            _check(response, named, media_type)
            yield response

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except httpx.ReadTimeout as error:
            raise ApiUnavailable(f"{self.base_url} does not answer") from error
        except httpx.TimeoutException as error:
            raise ApiUnavailable(f"cannot reach {self.base_url} within {self._timeout:g} s") from error
        except (httpx.ConnectError, httpx.UnsupportedProtocol) as error:
            raise ApiUnavailable(f"cannot reach {self.base_url}: is `muster up` running?") from error
        except httpx.TransportError as error:
            raise ApiUnavailable(f"lost the connection to {self.base_url}: {error}") from error


def _check(response: httpx.Response, named: tuple[str, str], media_type: str) -> None:
    """Raise what an answer says, if it says anything but success."""
    is_ours = response.request.url.path.startswith(_MUSTER)
    if is_ours and response.is_success and response.headers.get("content-type", "").startswith(media_type):
        return
    try:
        wire = json.loads(response.read())
        error = wire.get("error", wire)
        code = error["code"]
    except (ValueError, KeyError, TypeError, AttributeError):
        hint = f"HTTP {response.status_code} from {response.request.url} does not look like Muster's API"
        raise ApiError("InternalError", hint, status=response.status_code) from None
    if code != "Success":
        raise _refusal(error, response.status_code, named)


def _refusal(error: Mapping[str, Any], status: int, named: tuple[str, str]) -> MusterError:
    code, text = error["code"], error.get("message") or error.get("msg") or ""
    if code == "AuthorizeFailed":
        return Unauthenticated(f"{text} (is the token right?)")
    if code == "RecordNotFoundError" and named[1]:
        return NotFound(*named)
    if code == "CursorExpired":
        return CursorExpired(text)
    return ApiError(code, text, status=status, request_id=error.get("request_id", ""))


def _host(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidSpec("url", f"{url!r} is none: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidSpec("url", f"must be like {DEFAULT_URL}, got {url!r}")
    return parsed.host


def _segment(text: str) -> str:
    """Quote one part of a path; a slash in a name must not lead elsewhere."""
    return urllib.parse.quote(text, safe="")


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def _maybe_time(text: str | None) -> datetime.datetime | None:
    return None if text is None else datetime.datetime.fromisoformat(text)


def _deployment(wire: Mapping[str, Any]) -> Deployment:
    return Deployment(
        uuid=wire["uuid"],
        name=wire["name"],
        type=wire["deployment_type"],
        status=wire["status"],
        replica_num=wire["replica_num"],
        parallelism_num=wire["parallelism_num"],
        starting_num=wire["starting_num"],
        running_num=wire["running_num"],
        ready_num=wire["ready_num"],
        finished_num=wire["finished_num"],
        image_uuid=wire["image_uuid"],
        gpu_names=tuple(wire["template"]["gpu_name_set"]),
        gpu_num=wire["template"]["gpu_num"],
        price_milliyuan=wire["price_estimates"],
        created_at=_time(wire["created_at"]),
        updated_at=_time(wire["updated_at"]),
        stopped_at=_maybe_time(wire["stopped_at"]),
    )


def _container(wire: Mapping[str, Any]) -> Container:
    info = wire["info"]
    return Container(
        uuid=wire["uuid"],
        deployment_uuid=wire["deployment_uuid"],
        version=wire["version"],
        status=wire["status"],
        is_ready=wire["is_ready"],
        reason=wire["reason"],
        message=wire["message"],
        exit_code=wire["exit_code"],
        reused_from=wire["reused_from"],
        machine_id=wire["machine_id"],
        data_center=wire["data_center"],
        gpu_name=wire["gpu_name"],
        gpu_num=wire["gpu_num"],
        cpu_num=wire["cpu_num"],
        memory_bytes=wire["memory_size"],
        price_milliyuan=wire["price"],
        image_uuid=wire["image_uuid"],
        url_6006=info["service_6006_port_url"],
        url_6008=info["service_6008_port_url"],
        ssh_command=info["ssh_command"],
        root_password=info["root_password"],
        created_at=_time(wire["created_at"]),
        updated_at=_time(wire["updated_at"]),
        started_at=_maybe_time(wire["started_at"]),
        stopped_at=_maybe_time(wire["stopped_at"]),
    )


def _event(wire: Mapping[str, Any]) -> Event:
    return Event(
        id=wire["id"],
        kind=wire["kind"],
        deployment_uuid=wire["deployment_uuid"],
        container_uuid=wire["deployment_container_uuid"],
        status=wire["status"],
        reason=wire["reason"],
        message=wire["message"],
        exit_code=wire["exit_code"],
        created_at=_time(wire["created_at"]),
    )


def _machine(wire: Mapping[str, Any]) -> Machine:
    return Machine(
        id=wire["machine_id"],
        data_center=wire["data_center"],
        gpu_name=wire["gpu_name"],
        gpu_num=wire["gpu_num"],
        cpu_num=wire["cpu_num"],
        memory_bytes=wire["memory_size"],
        cuda=wire["cuda_v"],
        price_milliyuan=wire["price"],
        chip_corp=wire["chip_corp"],
        cpu_arch=wire["cpu_arch"],
        claimed_gpus=tuple(wire["claimed_gpus"]),
    )


def _account(wire: Mapping[str, Any]) -> Account:
    return Account(wire["id"], wire["name"], wire["role"], _time(wire["created_at"]))
