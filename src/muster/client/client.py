"""The client itself: one method per call, the pages and streams behind them, and what an unreachable server is."""

import json
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx

from muster.client import wire
from muster.client.values import (
    Account,
    Container,
    Deployment,
    DeploymentDetail,
    Event,
    Image,
    Machine,
    Stock,
    Unplaced,
)
from muster.errors import ApiUnavailable, InvalidSpec, Unauthenticated
from muster.model.endpoint import EndpointSet

DEFAULT_URL = "http://127.0.0.1:7600"
_DEV = "/api/v1/dev"
_PAGE_SIZE = 100
_SILENCE_SECONDS = 60.0
"""The server sends at least an empty line every 10 s into an event stream: after six of them it is gone."""
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


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
        return (wire.deployment(row) for row in self._pages(f"{_DEV}/deployment/list", body))

    def deployment(self, uuid: str) -> DeploymentDetail:
        """Return one deployment with its specification and what keeps it from being placed."""
        found = self._muster("GET", f"/deployments/{_segment(uuid)}", named=("deployment", uuid))
        return DeploymentDetail(
            deployment=wire.deployment(found),
            version=found["version"],
            spec=found["spec"],
            unplaced=tuple(
                Unplaced(each["id"], wire.time(each["created_at"]), each["explanation"]) for each in found["unplaced"]
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
        return (wire.container(row) for row in rows)

    def containers_of(self, deployment_uuid: str) -> list[Container]:
        """Return all placed, unfinished containers of a deployment and the latest finished ones, oldest first."""
        path = f"/deployments/{_segment(deployment_uuid)}/containers"
        found = self._muster("GET", path, named=("deployment", deployment_uuid))
        return [wire.container(row) for row in found["containers"]]

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
        path = f"{wire.MUSTER}/containers/{_segment(container_uuid)}/logs"
        with self._stream(path, params, media_type="text/plain", named=("container", container_uuid)) as response:
            yield from response.iter_bytes()

    # Events

    def container_events(self, deployment_uuid: str, container_uuid: str = "") -> Iterator[Event]:
        """Yield the lifecycle events of a deployment or one container, newest first, page by page."""
        body = {"deployment_uuid": deployment_uuid, "deployment_container_uuid": container_uuid}
        rows = self._pages(f"{_DEV}/deployment/container/event/list", body, named=("deployment", deployment_uuid))
        return (wire.event(row) for row in rows)

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
        path, kind = f"{wire.MUSTER}/events", "application/x-ndjson"
        with self._stream(path, params, media_type=kind, named=named, silence_seconds=_SILENCE_SECONDS) as response:
            for line in response.iter_lines():
                if line.strip():  # an empty line only says that the server is still there
                    found = json.loads(line)
                    if "error" in found:
                        raise wire.refusal(found["error"], 410, ("", ""))
                    yield wire.event(found)

    # Images, machines, discovery

    def private_images(self) -> Iterator[Image]:
        """Yield the account's own images."""
        return (Image(row["image_uuid"], row["name"]) for row in self._pages(f"{_DEV}/image/private/list", {}))

    def base_images(self) -> Iterator[Image]:
        """Yield the images of the platform."""
        return (Image(row["image_uuid"], row["name"]) for row in self._pages("/api/v2/image/list", {}))

    def machines(self) -> list[Machine]:
        """Return the machines on offer and which of their GPUs are taken."""
        return [wire.machine(row) for row in self._muster("GET", "/machines")["machines"]]

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
        response = self._call("GET", f"{wire.MUSTER}/endpoints", params=params, named=("service", service))
        return EndpointSet.from_json(response.content)

    # Accounts

    def me(self) -> Account:
        """Return the account that the token acts for."""
        return wire.account(self._muster("GET", "/me"))

    def accounts(self) -> list[Account]:
        """Return all accounts; admins only."""
        return [wire.account(row) for row in self._muster("GET", "/accounts")["accounts"]]

    def create_account(self, name: str, role: str = "member") -> Account:
        """Create an account without a token; admins only."""
        return wire.account(self._muster("POST", "/accounts", {"name": name, "role": role}))

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
        return self._call(method, wire.MUSTER + path, body=body, named=named).json()

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
        wire.check(response, named, "application/json")
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
            wire.check(response, named, media_type)
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
