"""Docker without us: its API, spoken as plainly as can be, and its command line; what Muster is measured against.

A peer's container gets the settings of one of Muster's own that take Docker time: init, limits, network, log, security.
It has no mounts, no labels and no files of ours, and its command is its own.
"""

import asyncio
import json
import shlex
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from tests.docker.daemon import Daemon

COMMAND = ("sleep", "infinity")
_SAME = (
    "Init",
    "NanoCpus",
    "Memory",
    "MemorySwap",
    "PidsLimit",
    "NetworkMode",
    "ShmSize",
    "Ulimits",
    "LogConfig",
    "SecurityOpt",
    "CapDrop",
)
"""What of a container's ``HostConfig`` a peer gets, too."""


class Docker:
    """One daemon's API."""

    def __init__(self, daemon: Daemon) -> None:
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(daemon.socket)), base_url="http://docker", timeout=300.0
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def call(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        """Make a call and return its JSON, or its text."""
        response = await self._client.request(method, path, json=body, params=params)
        if response.is_error:
            raise RuntimeError(f"{method} {path}: {response.status_code} {response.text}")
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        return response.json() if is_json and path != "/images/create" else response.text

    async def create(self, image: str, host_config: Mapping[str, Any], command: Sequence[str] = COMMAND) -> str:
        """Create a container; return Docker's id."""
        body = {"Image": image, "Cmd": list(command), "HostConfig": dict(host_config)}
        return str((await self.call("POST", "/containers/create", body))["Id"])

    async def start(self, docker_id: str) -> None:
        """Start a container."""
        await self.call("POST", f"/containers/{docker_id}/start")

    async def end(self, docker_id: str) -> None:
        """Kill what a container runs, and wait for its end."""
        await self.call("POST", f"/containers/{docker_id}/kill")
        await self.call("POST", f"/containers/{docker_id}/wait")

    async def remove(self, docker_id: str) -> None:
        """Remove a container, running or not."""
        await self.call("DELETE", f"/containers/{docker_id}", force=True, v=True)

    async def inspect(self, name: str) -> Mapping[str, Any]:
        """Return what Docker says of a container."""
        found: Mapping[str, Any] = await self.call("GET", f"/containers/{name}/json")
        return found

    async def pull(self, reference: str) -> None:
        """Fetch an image."""
        said = await self.call("POST", "/images/create", fromImage=reference)
        if '"error"' in said:
            raise RuntimeError(said)

    async def follow(self, *actions: str) -> AsyncIterator[Mapping[str, Any]]:
        """Yield events of containers as they come."""
        filters = json.dumps({"type": ["container"], "event": list(actions)})
        async with self._client.stream("GET", "/events", params={"filters": filters}, timeout=None) as response:
            async for line in response.aiter_lines():
                yield json.loads(line)

    async def host_config(self, name: str) -> Mapping[str, Any]:
        """Return what a peer of a container gets."""
        told = (await self.inspect(name))["HostConfig"]
        return {key: told[key] for key in _SAME}


def flags(host_config: Mapping[str, Any]) -> list[str]:
    """Return the same settings as options of ``docker run``."""
    words = [
        "--init",
        f"--cpus={host_config['NanoCpus'] / 1e9:g}",
        f"--memory={host_config['Memory']}",
        f"--memory-swap={host_config['MemorySwap']}",
        f"--pids-limit={host_config['PidsLimit']}",
        f"--network={host_config['NetworkMode']}",
        f"--shm-size={host_config['ShmSize']}",
        f"--log-driver={host_config['LogConfig']['Type']}",
    ]
    words += [f"--ulimit={each['Name']}={each['Soft']}:{each['Hard']}" for each in host_config["Ulimits"] or ()]
    words += [f"--log-opt={name}={value}" for name, value in host_config["LogConfig"]["Config"].items()]
    words += [f"--security-opt={each}" for each in host_config["SecurityOpt"]]
    words += [f"--cap-drop={each}" for each in host_config["CapDrop"]]
    return words


async def shell(daemon: Daemon, script: str) -> tuple[str, float]:
    """Run a script whose ``docker`` is this daemon's; return its output, and the seconds that it took."""
    environ = {"DOCKER_HOST": daemon.url, "DOCKER_CONFIG": str(daemon.folder / "cli")}
    names = " ".join(f"{name}={shlex.quote(value)}" for name, value in environ.items())
    began = time.perf_counter()
    process = await asyncio.create_subprocess_shell(
        f"export {names}\n{script}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    seconds = time.perf_counter() - began
    if process.returncode != 0:
        raise RuntimeError(f"{script}: {errors.decode()}")
    return output.decode().strip(), seconds
