"""A client as people wrote them in 2022 and 2023 and for the private cloud, with ``requests``; nothing here is ours.

It sends what was documented then (``cuda_v``, ``region_sign``, one protocol for both ports, no ``dc_list``), reads
what was answered then (``service_url``, the ``name`` of images, stock as one object), asks some things by other
methods and paths than today's, and looks at the HTTP status before anything else.
"""

import datetime
from collections.abc import Iterator
from typing import Any, Self
from urllib.parse import urlparse

import requests


class Refused(Exception):
    """What the platform said, and where to look for it."""

    def __init__(self, code: str, msg: str, request_id: str) -> None:
        super().__init__(f"{code}: {msg} ({request_id})")
        self.code = code


class OldClient:
    """One token on one host. A context manager."""

    def __init__(self, host: str, token: str) -> None:
        self._host = host
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy of the environment does not know loopback
        self._session.headers.update({"Authorization": token, "Content-Type": "application/json"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        response = self._session.request(method, f"{self._host}/api/{path}", json=body, timeout=10)
        response.raise_for_status()
        answer = response.json()
        if answer["code"] != "Success":
            raise Refused(answer["code"], answer["msg"], answer["request_id"])
        return answer["data"]

    def pages(self, path: str, size: int, **body: Any) -> Iterator[dict[str, Any]]:
        index = 0  # the documented default
        while True:
            page = self.call("POST", path, {**body, "page": index, "page_index": index, "page_size": size})
            yield from page["list"]
            index = max(1, index)
            if index >= page["max_page"]:
                return
            index += 1

    def image(self, name: str) -> str:
        """Return the uuid of the image of a name, the account's own or the platform's."""
        for path in ("v1/dev/image/private/list", "v2/image/list"):
            for image in self.pages(path, 100):
                if image["name"] == name:
                    return str(image["image_uuid"])
        raise LookupError(name)

    def idle(self) -> dict[str, int]:
        """Return idle GPUs by model, whichever of its two forms the stock has."""
        data = self.call("GET", "v1/dev/machine/gpu_stock")
        by_model = data if isinstance(data, dict) else {name: row for entry in data for name, row in entry.items()}
        return {name: row["idle_gpu_num"] for name, row in by_model.items()}

    def create(self, name: str, image_uuid: str, gpu_name: str, *, replicas: int, **top: Any) -> str:
        data = self.call(
            "POST",
            "v1/dev/deployment",
            {
                "name": name,
                "deployment_type": "ReplicaSet",
                "replica_num": replicas,
                "parallelism_num": 0,
                "reuse_container": True,
                "service_port_protocol": "http",
                "cache_container": True,
                "container_template": {
                    "region_sign": "",
                    "gpu_name_set": [gpu_name],
                    "gpu_num": 1,
                    "cuda_v": 113,
                    "cpu_num_from": 1,
                    "cpu_num_to": 100,
                    "memory_size_from": 1,
                    "memory_size_to": 256,
                    "price_from": 10,
                    "price_to": 9000,
                    "image_uuid": image_uuid,
                    "cmd": "cd /root && python server.py > log 2>&1",
                },
                **top,
            },
        )
        return str(data["deployment_uuid"])

    def deployment(self, name: str) -> dict[str, Any]:
        """Find a deployment in the list, which this client asks for by GET."""
        for row in self.call("GET", "v1/dev/deployment/list")["list"]:
            if row["name"] == name:
                return dict(row)
        raise LookupError(name)

    def services(self, deployment_uuid: str) -> list[tuple[str, int]]:
        """Return host and port of every running container."""
        rows = self.pages(
            "v1/dev/deployment/container/list",
            2,
            deployment_uuid=deployment_uuid,
            container_uuid="",
            date_from="",
            date_to="",
            gpu_name="",
            cpu_num_from=0,
            cpu_num_to=0,
            memory_size_from=0,
            memory_size_to=0,
            price_from=0,
            price_to=0,
            released=False,
            status=["running"],
        )
        found = []
        for row in rows:
            url = urlparse(row["info"]["service_url"])
            assert (url.hostname, url.port) == (row["info"]["proxy_host"], row["info"]["custom_port"])
            found.append((str(url.hostname), int(url.port or 0)))
        return found

    def latest(self, deployment_uuid: str) -> tuple[str, str, datetime.datetime]:
        """Return the newest event."""
        body = {"deployment_uuid": deployment_uuid, "deployment_container_uuid": "", "page_index": 0, "page_size": 10}
        event = self.call("POST", "v1/dev/deployment/container/event/list", {**body, "offset": 0})["list"][0]
        when = datetime.datetime.strptime(event["created_at"], "%Y-%m-%dT%H:%M:%S%z")
        return event["deployment_container_uuid"], event["status"], when

    def stop(self, container_uuid: str, *, keeps_number: bool) -> None:
        self.call(
            "POST",
            "v1/dev/deployment/container/stop",
            {
                "deployment_container_uuid": container_uuid,
                "decrease_replica": not keeps_number,
                "cache_container": True,
                "cmd_before_shutdown": "",
            },
        )

    def scale(self, deployment_uuid: str, replicas: int) -> None:
        body = {"deployment_uuid": deployment_uuid, "replica_num": replicas}
        data = self.call("PUT", "v1/dev/deployment/replica_num", body)
        assert data is None or data["deployment_uuid"] == deployment_uuid

    def operate(self, deployment_uuid: str, operation: str) -> None:
        body = {"deployment_uuid": deployment_uuid, "operation": operation}
        assert self.call("POST", "v1/dev/deployment/operate", body) is None

    def delete(self, deployment_uuid: str) -> None:
        assert self.call("DELETE", "v1/dev/deployment", {"deployment_uuid": deployment_uuid}) is None

    def block(self, container_uuid: str, minutes: int) -> None:
        body = {"deployment_container_uuid": container_uuid, "expire_in_minutes": minutes, "comment": "慢"}
        self.call("POST", "v1/dev/deployment/blacklist", body)

    def blocked(self) -> list[str]:
        entries = self.call("POST", "v1/dev/deployment/blacklist/list", {})
        other = self.call("GET", "v1/dev/deployment/scheduling/blacklist")
        assert entries == other
        return [each["machine_id"] for each in entries or []]

    def balance(self) -> int:
        """Return what can be spent; this call has no body at all."""
        wallet = self.call("POST", "v1/dev/wallet/balance")
        return int(wallet["assets"]) - int(wallet.get("blocked_asset", 0))
