"""The client itself: one method per call, the pages and streams behind them, and what an unreachable server is."""

import json
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

from muster.client import wire
from muster.client.authority import Authority
from muster.client.explanations import Explanations
from muster.client.rollouts import Rollouts
from muster.client.ssh import Ssh
from muster.client.upkeep import Upkeep
from muster.client.values import (
    Account,
    AuditEntry,
    BoundImage,
    CatalogueImage,
    CheckedDeployment,
    CommandWarning,
    Container,
    Deployment,
    DeploymentDetail,
    Event,
    FileEntry,
    Image,
    Machine,
    PooledContainer,
    Prewarm,
    ReuseStats,
    Stock,
    Token,
    Unplaced,
)
from muster.errors import ApiUnavailable, InvalidSpec, Unauthenticated
from muster.model.endpoint import EndpointSet

if TYPE_CHECKING:
    from muster.client.exec import ExecStream

DEFAULT_URL = "http://127.0.0.1:7600"
_DEV = "/api/v1/dev"
_PAGE_SIZE = 100
_SILENCE_SECONDS = 60.0
"""The server sends at least an empty line every 10 s into an event stream: after six of them it is gone."""
_DISK_SECONDS = 600.0
"""How long a disk may take: to flush a large file, or to remove a large folder."""
_BINARY = "application/octet-stream"
_PATIENCE = 5
"""How often a call waits for the rate limit, each time twice as long, since others wait for the same bucket."""
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
        self._trusts_env = host not in _LOOPBACK  # a proxy of the environment cannot reach our own loopback
        self._http = httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": token, "Content-Type": "application/json"} if token else {},
            timeout=timeout,
            transport=transport,
            trust_env=self._trusts_env,
        )

        self.authority = Authority(self._call)
        """Whom to trust at containers' addresses."""
        self.explanations = Explanations(self._muster)
        self.rollouts = Rollouts(self._dev, self._muster)
        """Edits of deployments and how far they are."""
        self.upkeep = Upkeep(self._muster)
        """What is wanted of single machines: cordons, drains, blacklists."""
        self.ssh = Ssh(self._muster)
        """Who gets in to containers by a key of their own."""

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
        return self.examine_deployment(body).spec

    def examine_deployment(self, body: Mapping[str, Any]) -> CheckedDeployment:
        """Do what ``check_deployment`` does; returns also what is probably not meant in its command."""
        found = self._muster("POST", "/deployments/check", body)
        warnings = tuple(CommandWarning(each["code"], each["message"]) for each in found.get("warnings", ()))
        return CheckedDeployment(spec=found["spec"], warnings=warnings)

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

    def logs(
        self, container_uuid: str, *, tail: int | None = None, since: str | None = None, follow: bool = False
    ) -> Iterator[bytes]:
        """Yield a container's output as it arrives; ``follow`` goes on until the container has ended.

        ``since`` is a duration before now (``10m``, ``2h30m``, seconds) or a time (RFC 3339).
        """
        params: dict[str, Any] = {"follow": follow}
        if tail is not None:
            params["tail"] = tail
        if since is not None:
            params["since"] = since
        path = f"{wire.MUSTER}/containers/{_segment(container_uuid)}/logs"
        with self._stream(path, params, media_type="text/plain", named=("container", container_uuid)) as response:
            yield from response.iter_bytes()

    def execute(
        self, container_uuid: str, command: Sequence[str], *, tty: bool = False, size: tuple[int, int] | None = None
    ) -> "ExecStream":
        """Run a command in a running container; ``size`` is columns × rows of its terminal."""
        from muster.client.exec import open_stream  # noqa: PLC0415 websockets is loaded only by who runs a command

        return open_stream(
            self.base_url,
            {"Authorization": self._http.headers["Authorization"]} if "Authorization" in self._http.headers else {},
            container_uuid,
            command,
            has_tty=tty,
            size=size,
            timeout=self._timeout,
            trust_env=self._trusts_env,
        )

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

    # Images

    def catalogue(self) -> list[CatalogueImage]:
        """Return the account's images and then those of the platform, newest first each."""
        return [wire.catalogue_image(row) for row in self._muster("GET", "/images")["images"]]

    def add_image(self, name: str, reference: str, *, is_base: bool = False) -> BoundImage:
        """Let a name stand for a reference, new or anew; fetches nothing. Base images are for admins only."""
        found = self._muster("POST", "/images", {"name": name, "reference": reference, "base": is_base})
        return BoundImage(
            image=wire.catalogue_image(found["image"]),
            rebound=found["rebound"],
            old_reference=found["old_reference"],
            old_digest=found["old_digest"],
            outdated_on=tuple(found["outdated_on"]),
        )

    def remove_image(self, uuid: str) -> CatalogueImage:
        """Take an image off the catalogue; returns what it was."""
        return wire.catalogue_image(self._muster("DELETE", f"/images/{_segment(uuid)}", named=("image", uuid)))

    def save_image(self, container_uuid: str, name: str) -> CatalogueImage:
        """Want an image of a container's files; returns at once, ``saving``."""
        body = {"container_uuid": container_uuid, "name": name}
        return wire.catalogue_image(self._muster("POST", "/images/save", body, named=("container", container_uuid)))

    def prewarm_image(
        self, uuid: str, *, machine_ids: Sequence[str] = (), data_centers: Sequence[str] = ()
    ) -> list[Prewarm]:
        """Want machines to hold an image, all on offer if none is named; returns at once."""
        body = {"machine_ids": list(machine_ids), "data_centers": list(data_centers)}
        found = self._muster("POST", f"/images/{_segment(uuid)}/prewarm", body, named=("image", uuid))
        return [wire.prewarm(row) for row in found["prewarms"]]

    def prewarms(self, uuid: str) -> list[Prewarm]:
        """Return how far each machine is that is to hold an image."""
        found = self._muster("GET", f"/images/{_segment(uuid)}/prewarm", named=("image", uuid))
        return [wire.prewarm(row) for row in found["prewarms"]]

    def registries(self) -> list[str]:
        """Return the registries that the account is logged in to."""
        return list(self._muster("GET", "/registries")["registries"])

    def put_registry(self, host: str, username: str, password: str) -> None:
        """Keep what a registry asks of the account; it is encrypted and never told again."""
        self._muster("PUT", f"/registries/{_segment(host)}", {"username": username, "password": password})

    def remove_registry(self, host: str) -> None:
        """Forget what a registry asks of the account."""
        self._muster("DELETE", f"/registries/{_segment(host)}", named=("registry", host))

    # AutoDL's lists of images, machines, discovery

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
        """Return idle and total GPUs and what fits by model, of some data centers and models or of all."""
        body = {"dc_list": list(data_centers), "gpu_name_set": list(gpu_names)}
        return [
            wire.stock(name, row)
            for entry in self._dev("POST", "/machine/region/gpu_stock", body)
            for name, row in entry.items()
        ]

    def endpoints(self, service: str, port: int = 6006) -> EndpointSet:
        """Return who serves a service (a name or a deployment uuid) now; ``NotFound`` while that is unknown."""
        params = {"service": service, "port": port}
        response = self._call("GET", f"{wire.MUSTER}/endpoints", params=params, named=("service", service))
        return EndpointSet.from_json(response.content)

    # Files

    def file(self, path: str, *, data_center: str | None = None) -> FileEntry:
        """Return what is at a path of the account's storage; ``NotFound`` when nothing is.

        ``data_center`` may be left out where there is only one; so too in every call below.
        """
        return wire.file_entry(self._file("GET", path, data_center, limit=1))

    def files(self, path: str = "/", *, data_center: str | None = None) -> Iterator[FileEntry]:
        """Yield the entries of a folder by name, page by page; of anything else itself."""
        after = ""
        while True:
            found = self._file("GET", path, data_center, limit=_PAGE_SIZE, after=after)
            if found["kind"] != "folder":
                yield wire.file_entry(found)
                return
            yield from map(wire.file_entry, found["entries"])
            if found["is_complete"] or not found["entries"]:
                return
            after = found["entries"][-1]["name"]

    def read_file(self, path: str, *, data_center: str | None = None) -> Iterator[bytes]:
        """Yield a file's content; raises ``ApiUnavailable`` when it breaks off before its end."""
        params = _given(path=path, data_center=data_center)
        named = ("file", path)
        with self._stream(
            f"{wire.MUSTER}/files/content", params, media_type=_BINARY, named=named, silence_seconds=_DISK_SECONDS
        ) as response:
            yield from response.iter_bytes()

    def write_file(
        self, path: str, content: bytes | Iterable[bytes], *, data_center: str | None = None, mode: int = 0o644
    ) -> FileEntry:
        """Write a file, with the folders above it; the old one stays until the new one is complete."""
        written = self._file("PUT", path, data_center, to="/content", content=content, mode=f"{mode & 0o777:03o}")
        return wire.file_entry(written)

    def make_folder(self, path: str, *, data_center: str | None = None) -> FileEntry:
        """Make a folder and those above it; one that is there stays as it is."""
        return wire.file_entry(self._file("PUT", path, data_center))

    def remove_file(self, path: str, *, data_center: str | None = None, is_recursive: bool = False) -> FileEntry:
        """Remove a file, or with ``is_recursive`` a folder with everything in it; returns what it was."""
        return wire.file_entry(self._file("DELETE", path, data_center, recursive=is_recursive))

    # Reuse

    def pool(self, *, of_all_accounts: bool = False) -> list[PooledContainer]:
        """Return what waits for reuse, most recently stopped first; of all accounts for admins only."""
        return [wire.pooled(row) for row in self._muster("GET", f"/pool{_all(of_all_accounts)}")["containers"]]

    def leave_pool(self, uuid: str) -> PooledContainer:
        """Destroy what is left of an ended container; returns at once, with what it was."""
        return wire.pooled(self._muster("DELETE", f"/pool/{_segment(uuid)}", named=("container in the pool", uuid)))

    def reuse_stats(self, *, of_all_accounts: bool = False) -> ReuseStats:
        """Return how often a start reused a container, and what that saved; of all accounts for admins only."""
        found = self._muster("GET", f"/stats{_all(of_all_accounts)}")
        return ReuseStats(
            starts=found["starts"],
            reuses=found["reuses"],
            hit_rate=found["hit_rate"],
            seconds_saved=found["seconds_saved"],
            pooled=found["pooled"],
        )

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

    def set_quota(self, account_name: str, *, gpu_num: int | None, container_num: int | None) -> Account:
        """Say how much an account's running deployments may want together; ``None``: no bound. Admins only."""
        path, body = f"/accounts/{_segment(account_name)}/quota", {"gpu_num": gpu_num, "container_num": container_num}
        return wire.account(self._muster("PUT", path, body, named=("account", account_name)))

    def tokens(self, account_name: str) -> list[Token]:
        """Return what is known of an account's tokens, oldest first; of another account's for admins only."""
        found = self._muster("GET", f"/accounts/{_segment(account_name)}/tokens", named=("account", account_name))
        return [wire.token(row) for row in found["tokens"]]

    def create_token(self, account_name: str, *, name: str = "", expires_in_seconds: int | None = None) -> str:
        """Make a token for an account and return it; it cannot be read again. For another account: admins only."""
        path = f"/accounts/{_segment(account_name)}/tokens"
        body = {"name": name, "expires_in_seconds": expires_in_seconds}
        return str(self._muster("POST", path, body, named=("account", account_name))["token"])

    def revoke_token(self, account_name: str, token_id: str) -> Token:
        """End a token at once; returns what was known of it."""
        path = f"/accounts/{_segment(account_name)}/tokens/{_segment(token_id)}"
        return wire.token(self._muster("DELETE", path, named=("token", token_id)))

    def audit(
        self, *, account_name: str | None = None, target: str | None = None, limit: int | None = None
    ) -> Iterator[AuditEntry]:
        """Yield who changed what, newest first, page by page; of other accounts for admins only."""
        offset = 0
        while limit is None or offset < limit:
            size = _PAGE_SIZE if limit is None else min(_PAGE_SIZE, limit - offset)
            params = _given(account=account_name, target=target, limit=size, offset=offset)
            named = ("account", account_name or "")
            found = self._call("GET", f"{wire.MUSTER}/audit", params=params, named=named).json()["entries"]
            yield from map(wire.audit_entry, found)
            if len(found) < size:
                return
            offset += size

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
        media_type: str = "application/json",
    ) -> httpx.Response:
        with self._reachable():
            response = _patiently(lambda: self._http.request(method, path, json=body, params=params))
        wire.check(response, named, media_type)
        return response

    def _file(
        self,
        method: str,
        path: str,
        data_center: str | None,
        *,
        to: str = "",
        content: bytes | Iterable[bytes] | None = None,
        **query: Any,
    ) -> Any:
        timeout = httpx.Timeout(self._timeout, read=_DISK_SECONDS, write=_DISK_SECONDS)
        params = _given(path=path, data_center=data_center, **query)
        is_repeatable = content is None or isinstance(content, bytes)

        def send() -> httpx.Response:
            return self._http.request(
                method,
                f"{wire.MUSTER}/files{to}",
                params=params,
                content=content,
                headers={"Content-Type": _BINARY},
                timeout=timeout,
            )

        with self._reachable():
            response = _patiently(send) if is_repeatable else send()
        wire.check(response, ("file", path), "application/json")
        return response.json()

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
        request = self._http.build_request("GET", path, params=params, timeout=timeout)
        with self._reachable(), closing(_patiently(lambda: self._http.send(request, stream=True))) as response:
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


def _patiently(send: Callable[[], httpx.Response]) -> httpx.Response:
    """Send, and after a while again what came too often for the server's rate limit: it did nothing of it."""
    for attempt in range(_PATIENCE):
        response = send()
        wait_seconds = wire.too_often(response)
        if wait_seconds is None:
            return response
        response.close()
        time.sleep(wait_seconds * 2**attempt)
    return send()


def _host(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidSpec("url", f"{url!r} is none: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidSpec("url", f"must be like {DEFAULT_URL}, got {url!r}")
    return parsed.host


def _given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _all(of_all_accounts: bool) -> str:
    return "?all=true" if of_all_accounts else ""


def _segment(text: str) -> str:
    """Quote one part of a path; a slash in a name must not lead elsewhere."""
    return urllib.parse.quote(text, safe="")
