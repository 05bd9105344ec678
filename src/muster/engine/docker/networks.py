"""A network of its own for every account: containers of one reach each other, those of another are kept out by Docker.

Made when an account's first container is, and kept until the installation is removed: Docker frees the addresses of
ended containers by itself. Docker would make two networks of one name, hence one at a time.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from aiodocker.exceptions import DockerError

from muster.engine.docker.connection import Connection, refusal
from muster.engine.docker.spec import ACCOUNT, INSTALLATION, Names
from muster.errors import EngineRejected
from muster.model.container import Reason
from muster.model.ids import AccountId

_NOT_FOUND, _CONFLICT = 404, 409
_PAUSES = (0.1, 0.2, 0.4, 0.8)


class Networks:
    """The networks of one installation."""

    def __init__(self, connection: Connection, installation: str, names: Names) -> None:
        self._connection = connection
        self._installation = installation
        self._names = names
        self._known: set[str] = set()
        self._gateways: dict[str, str] = {}
        self._lock = asyncio.Lock()

    async def of(self, account_id: AccountId) -> str:
        """See that an account has its network; return its name."""
        name = self._names.network(account_id)
        labels = {INSTALLATION: self._installation, ACCOUNT: str(account_id)}
        async with self._lock:
            if name not in self._known:
                try:
                    await self._create({"Name": name, "Driver": "bridge", "CheckDuplicate": True, "Labels": labels})
                except DockerError as error:
                    if error.status != _CONFLICT:
                        raise refusal(Reason.START_FAILED, f"network of account {account_id}", error) from error
                    await self._check_owner(name)
                self._known.add(name)
        return name

    async def _create(self, body: Mapping[str, Any]) -> None:
        """Make one; again while somebody (a firewall that is reloaded, another daemon) rewrites the host's rules."""
        for pause in (*_PAUSES, None):
            try:
                await self._connection.call("POST", "networks/create", body=body)
            except DockerError as error:
                if pause is None or "iptables" not in str(error.message):
                    raise
                await asyncio.sleep(pause)
            else:
                return

    async def _check_owner(self, name: str) -> None:
        """Refuse a network that is there but not ours: who else is in it, nobody knows."""
        found = await self._connection.call("GET", f"networks/{name}")
        if (found["Labels"] or {}).get(INSTALLATION) != self._installation:
            raise EngineRejected(Reason.START_FAILED, f"the network {name} exists and is not of this installation")

    async def gateway(self, account_id: AccountId) -> str:
        """Return this host's address in an account's network, which is made if need be; empty where it has none."""
        name = await self.of(account_id)
        if name not in self._gateways:
            try:
                found = await self._connection.call("GET", f"networks/{name}")
            except DockerError as error:
                if error.status != _NOT_FOUND:
                    raise
                await self.renew(account_id)
                found = await self._connection.call("GET", f"networks/{name}")
            ranges = found["IPAM"]["Config"] or ()
            self._gateways[name] = next((each["Gateway"] for each in ranges if each.get("Gateway")), "")
        return self._gateways[name]

    async def renew(self, account_id: AccountId) -> None:
        """Make an account's network again, which was removed, or is there but not known to Docker's own driver."""
        name = self._names.network(account_id)
        with contextlib.suppress(DockerError):  # absent, or in use
            await self._connection.call("DELETE", f"networks/{name}")
        self._known.discard(name)
        self._gateways.pop(name, None)
        await self.of(account_id)

    async def delete_end(self, account_id: AccountId, name: str) -> None:
        """Delete the end of an account's network that Docker keeps for a container of a name, if no container has it.

        A container of that name that does not run is taken off the network.
        """
        network = self._names.network(account_id)
        body = {"Container": name, "Force": True}
        await self._connection.call("POST", f"networks/{network}/disconnect", body=body)

    async def attach(self, account_id: AccountId, docker_id: str) -> None:
        """Put a container on its account's network again, if it was taken off."""
        network = self._names.network(account_id)
        info = await self._connection.call("GET", f"containers/{docker_id}/json")
        if network not in info["NetworkSettings"]["Networks"]:
            await self._connection.call("POST", f"networks/{network}/connect", body={"Container": docker_id})

    async def remove_all(self) -> None:
        """Remove those that no container uses."""
        filters = {"label": [f"{INSTALLATION}={self._installation}"]}
        for network in await self._connection.call("GET", "networks", params={"filters": filters}):
            with contextlib.suppress(DockerError):
                await self._connection.call("DELETE", f"networks/{network['Id']}")
        self._known.clear()
        self._gateways.clear()
