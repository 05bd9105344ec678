"""An account of a hosted AutoDL, as a script: tests move its deployments and containers, and order how its API fails.

``ScriptedWorld`` holds the account and answers requests; it knows nothing of sockets and no time but what it is given.
``scripted_api.py`` puts it behind a real socket or behind an httpx transport, and says how it is used.

Rows have the fields of the hosted API, and none of our extensions unless told so. Lists are newest first, pages hold
at most ``page_cap`` rows. Every answer says what is true at its own moment: only order, repetition and completeness
suffer from misbehaviour, never truth, so that a reader can be held to account for everything it believes.
"""

import datetime
import itertools
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from muster.testing.scripted_trouble import Reply, Trouble, Troubles, refusal

DEV = "/api/v1/dev/deployment"
DEPLOYMENT_LIST, CONTAINER_LIST, EVENT_LIST = f"{DEV}/list", f"{DEV}/container/list", f"{DEV}/container/event/list"
CONTAINER = "/c/"
"""Where the services of containers answer: ``/c/UUID/PORT``."""
_EPOCH = datetime.datetime(2026, 3, 2, 9, 0, tzinfo=datetime.timezone(datetime.timedelta(hours=8)))
_ON_THE_WAY = ("creating", "created", "starting", "oss_merged")


@dataclass
class _Deployment:
    id: int
    uuid: str
    name: str
    protocol: str
    created_at: str
    status: str = "running"


@dataclass
class _Container:
    id: int
    uuid: str
    deployment_uuid: str
    created_at: str
    status: str = "creating"
    is_released: bool = False
    ready_ports: set[int] = field(default_factory=set)
    answers: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    stalls: float = 0.0
    started_at: str | None = None
    stopped_at: str | None = None


class ScriptedWorld:
    """One account with ``token``. ``address`` is ``HOST:PORT`` of what answers; ``monotonic`` dates what was told.

    All methods may be called from any thread.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        token: str = "t0ken",  # noqa: S107 - of a script
        address: str = "api.test:80",
        monotonic: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.token = token
        self.address = address
        self.page_cap = 1000
        self.refuses_account_wide = False
        """Answer ``RequestParameterIsWrong`` to a list of containers that names no deployment."""
        self.ignores_account_wide = False
        """Answer such a list with nothing instead."""
        self.tells_readiness = False
        """Say of each container whether it is ready, as Muster's API does."""
        self.clock_skew = datetime.timedelta()
        """How far the API's clock is off; may be changed at any time."""
        self.is_down = False
        """The API breaks every connection; services still answer."""
        self.is_cut_off = False
        """Services cannot be reached either."""
        self.holds_events = False
        """Events happen, and are not told while this is set: they come late."""
        self.troubles = Troubles(random.Random(seed))  # noqa: S311 - a script
        self.calls: Counter[str] = Counter()
        """Requests by path; those to services under ``/c/``."""
        self.told_running: dict[str, float] = {}
        """When the API last called each container running."""
        self._monotonic = monotonic
        self._random = random.Random(seed)  # noqa: S311 - a script
        self._lock = threading.RLock()
        self._ids = itertools.count(1)
        self._ticks = itertools.count()
        self._deployments: dict[str, _Deployment] = {}
        self._containers: dict[str, _Container] = {}
        self._events: list[dict[str, Any]] = []
        self._held_events: list[dict[str, Any]] = []

    def add_deployment(self, name: str, *, uuid: str = "", protocol: str = "http") -> str:
        """Create a deployment without containers; ``protocol`` is that of port 6008. Returns its uuid."""
        with self._lock:
            new = _Deployment(next(self._ids), uuid or self._hex(10), name, protocol, self._now())
            self._deployments[new.uuid] = new
            return new.uuid

    def create(self, deployment: str) -> str:
        """Let a deployment have one more container, which is only being created. Returns its uuid."""
        with self._lock:
            return self._create(deployment, f"{deployment}-{self._hex(10)}-{self._hex(10)}")

    def run(
        self, deployment: str, number: int = 1, *, is_ready: bool = True, ports: Sequence[int] = (6006,)
    ) -> list[str]:
        """Let a deployment have ``number`` more running containers that serve ``ports`` at once. Returns the uuids."""
        with self._lock:
            uuids = [self.create(deployment) for _ in range(number)]
            for uuid in uuids:
                self.start(uuid)
                if is_ready:
                    self.set_ready(uuid, ports=ports)
            return uuids

    def start(self, uuid: str) -> None:
        """Take a container through every state up to running; nobody serves in it yet."""
        with self._lock:
            for status in (*_ON_THE_WAY[1:], "running"):
                self.move(uuid, status)

    def move(self, uuid: str, status: str) -> None:
        """Take a container to one state, with its event."""
        with self._lock:
            container = self._containers[uuid]
            container.status = status
            if status == "running":
                container.started_at = self._now()
            elif status in ("shutting_down", "shutdown"):
                container.ready_ports = set()
                container.stopped_at = self._now()
            self._record(uuid, container.deployment_uuid, status)

    def set_ready(self, uuid: str, is_ready: bool = True, *, ports: Sequence[int] = (6006,)) -> None:
        """Let a container serve ``ports``, or none: its address answers 200, or 502 as a gateway does for it."""
        with self._lock:
            self._containers[uuid].ready_ports = set(ports) if is_ready else set()

    def let_answer(
        self, uuid: str, status: int = 200, *, headers: Mapping[str, str] | None = None, stalls: float = 0.0
    ) -> None:
        """Say how a container that serves answers: ``stalls`` is for so many seconds, before anything is said."""
        with self._lock:
            container = self._containers[uuid]
            container.answers, container.headers, container.stalls = status, dict(headers or {}), stalls

    def stop(self, uuid: str) -> None:
        """End a container as the API does; it stays in the pool for reuse."""
        with self._lock:
            self.move(uuid, "shutting_down")
            self.move(uuid, "shutdown")

    def reuse(self, uuid: str, deployment: str = "") -> str:
        """Start an ended container again under a new uuid, for ``deployment`` or its own. Returns that uuid."""
        with self._lock:
            old = self._containers[uuid]
            old.is_released = True
            new = self._create(deployment or old.deployment_uuid, "-".join([*uuid.split("-")[:3], self._hex(9)]))
            self.start(new)
            self.set_ready(new)
            return new

    def stop_deployment(self, deployment: str) -> None:
        """Stop a deployment and its containers; it stays in the list."""
        with self._lock:
            for uuid in self.running(deployment):
                self.stop(uuid)
            self._deployments[deployment].status = "stopped"

    def delete(self, deployment: str) -> None:
        """Delete a deployment: it and its containers are in no list any more."""
        with self._lock:
            self.stop_deployment(deployment)
            del self._deployments[deployment]
            self._containers = {k: v for k, v in self._containers.items() if v.deployment_uuid != deployment}

    def recreate(self, deployment: str) -> str:
        """Delete a deployment and create one of the same name, without containers. Returns the new uuid."""
        with self._lock:
            old = self._deployments[deployment]
            self.delete(deployment)
            return self.add_deployment(old.name, protocol=old.protocol)

    def release_events(self) -> None:
        """Tell the events that were held back, each where its time belongs."""
        with self._lock:
            self.holds_events = False
            self._events.extend(self._held_events)
            self._events.sort(key=lambda event: event["tick"])
            self._held_events = []

    def deployments(self) -> dict[str, str]:
        """Return the names of the live deployments by uuid, oldest first."""
        with self._lock:
            return {each.uuid: each.name for each in self._deployments.values() if each.status == "running"}

    def running(self, deployment: str = "") -> list[str]:
        """Return which containers run, of one deployment or of all."""
        with self._lock:
            found = [each for each in self._containers.values() if each.status == "running"]
            return [each.uuid for each in found if deployment in ("", each.deployment_uuid)]

    def serving(self, deployment: str = "", port: int = 6006) -> list[str]:
        """Return which running containers serve a port, ordered."""
        with self._lock:
            return sorted(uuid for uuid in self.running(deployment) if port in self._containers[uuid].ready_ports)

    def url(self, uuid: str, port: int = 6006) -> str:
        """Return where a container's port is reached, as an endpoint says it."""
        protocol = self._deployments[self._containers[uuid].deployment_uuid].protocol if port == 6008 else "http"
        return f"tcp://{self.address}" if protocol == "tcp" else f"http://{self.address}{CONTAINER}{uuid}/{port}"

    def respond(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer one request; ``headers`` are lower-case."""
        with self._lock:
            if path.startswith(CONTAINER):
                self.calls[CONTAINER] += 1
                return self._serve(path)
            self.calls[path] += 1
            if self.is_down:
                return Reply.broken()
            trouble = self.troubles.next(path)
            if trouble is not None and (reply := trouble.instead()) is not None:
                return reply
            if headers.get("authorization") != self.token:
                return refusal("AuthorizeFailed", "登录超时，请重新登录")
            try:
                asked = json.loads(body or b"{}")
            except ValueError:
                return refusal("RequestParameterIsWrong", "请求参数错误")
            reply = self._list(path, asked, trouble) if method == "POST" else Reply(404, b"404 page not found")
            return reply if trouble is None else trouble.delayed(reply)

    def _serve(self, path: str) -> Reply:
        if self.is_cut_off:
            return Reply.broken()
        uuid, _, port = path.removeprefix(CONTAINER).rstrip("/").partition("/")
        container = self._containers.get(uuid)
        if container is None or container.status != "running" or int(port or 6006) not in container.ready_ports:
            return Reply(502, b"nobody is behind this address")
        return Reply(container.answers, b"here I am", container.headers, stalls=container.stalls)

    def _list(self, path: str, asked: Mapping[str, Any], trouble: Trouble | None) -> Reply:
        deployment = asked.get("deployment_uuid") or ""
        rows: list[dict[str, Any]]
        if path == DEPLOYMENT_LIST:
            rows = [self._deployment_row(each) for each in reversed(self._deployments.values())]
            rows = [row for row in rows if asked.get("status") in (None, "", row["status"])]
            rows = [
                row for row in rows if deployment in ("", row["uuid"]) and asked.get("name") in (None, "", row["name"])
            ]
        elif path in (CONTAINER_LIST, EVENT_LIST) and deployment and deployment not in self._deployments:
            return refusal("RecordNotFoundError", "未查询到相关部署")
        elif path == CONTAINER_LIST:
            if not deployment and self.refuses_account_wide:
                return refusal("RequestParameterIsWrong", "请求参数错误")
            rows = [] if not deployment and self.ignores_account_wide else self._container_rows(deployment, asked)
        elif path == EVENT_LIST:
            rows = [
                {key: event[key] for key in ("deployment_container_uuid", "status", "created_at")}
                for event in reversed(self._events)
                if event["deployment_uuid"] == deployment
            ]
        else:
            return Reply(404, b"404 page not found")
        size = min(self.page_cap, asked.get("page_size") or 10)
        index = max(1, asked.get("page_index") or 1)
        pages = max(1, -(-len(rows) // size))
        if trouble is not None:
            rows, index = trouble.disturb(rows, index, pages)
        page = rows[(index - 1) * size : index * size]
        for row in page:
            if row.get("status") == "running" and "uuid" in row:
                self.told_running[row["uuid"]] = self._monotonic()
        return Reply.success(
            {
                "list": page,
                "page_index": asked.get("page_index") or 1,
                "page_size": size,
                "offset": 0,
                "max_page": -(-len(rows) // size),
                "result_total": len(rows),
                "page": index,
            }
        )

    def _container_rows(self, deployment: str, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        wanted, only = asked.get("status") or [], asked.get("container_uuid") or ""
        return [
            self._container_row(each)
            for each in reversed(self._containers.values())
            if deployment in ("", each.deployment_uuid)
            and only in ("", each.uuid)
            and (not wanted or each.status in wanted)
            and each.is_released == bool(asked.get("released"))
        ]

    def _deployment_row(self, each: _Deployment) -> dict[str, Any]:
        mine = [container for container in self._containers.values() if container.deployment_uuid == each.uuid]
        return {
            "id": each.id,
            "uid": 3,
            "uuid": each.uuid,
            "name": each.name,
            "deployment_type": "ReplicaSet",
            "status": each.status,
            "replica_num": len(mine),
            "parallelism_num": 1,
            "reuse_container": True,
            "service_port_protocol": "http",
            "starting_num": sum(container.status in _ON_THE_WAY for container in mine),
            "running_num": sum(container.status == "running" for container in mine),
            "finished_num": sum(container.status == "shutdown" for container in mine),
            "image_uuid": "image-5d0c77e1ab",
            "template": {"region_sign": "", "dc_list": ["lab-a"], "gpu_name_set": ["RTX 4090"], "gpu_num": 1},
            "price_estimates": 1980,
            "created_at": each.created_at,
            "updated_at": each.created_at,
            "stopped_at": None,
        }

    def _container_row(self, each: _Container) -> dict[str, Any]:
        has_address = each.status in ("running", "shutting_down")
        urls = {port: self.url(each.uuid, port).removeprefix("tcp://") if has_address else "" for port in (6006, 6008)}
        return {
            "id": each.id,
            "uuid": each.uuid,
            "version": "v1",
            "data_center": "lab-a",
            "machine_id": each.uuid.split("-")[1],
            "deployment_uuid": each.deployment_uuid,
            "status": each.status,
            "gpu_name": "RTX 4090",
            "gpu_num": 1,
            "cpu_num": 16,
            "memory_size": 96636764160,
            "image_uuid": "image-5d0c77e1ab",
            "price": 1980,
            "info": {
                "ssh_command": "ssh -p 20022 root@gw.test" if has_address else "",
                "root_password": "k3Vq0x" if has_address else "",
                "service_6006_port_url": urls[6006],
                "service_6008_port_url": urls[6008],
            },
            **({"is_ready": bool(each.ready_ports)} if self.tells_readiness else {}),
            "started_at": each.started_at,
            "stopped_at": each.stopped_at,
            "created_at": each.created_at,
            "updated_at": each.created_at,
        }

    def _create(self, deployment: str, uuid: str) -> str:
        self._containers[uuid] = _Container(next(self._ids), uuid, deployment, self._now())
        self._record(uuid, deployment, "creating")
        return uuid

    def _record(self, uuid: str, deployment: str, status: str) -> None:
        event = {
            "deployment_container_uuid": uuid,
            "status": status,
            "created_at": self._now(),
            "deployment_uuid": deployment,
            "tick": next(self._ticks),
        }
        (self._held_events if self.holds_events else self._events).append(event)

    def _now(self) -> str:
        moment = _EPOCH + datetime.timedelta(seconds=int(self._monotonic())) + self.clock_skew
        return moment.isoformat(timespec="seconds")

    def _hex(self, digits: int) -> str:
        return f"{self._random.getrandbits(4 * digits):0{digits}x}"
