"""The three lists of AutoDL's API that discovery asks for: deployments, containers, events."""

from collections.abc import Collection, Mapping
from typing import Any

from muster.client.async_api import AsyncApi
from muster.discovery.poll_pages import Page, Pages
from muster.discovery.poll_rows import RUNNING, ContainerRow, DeploymentRow, container_row, deployment_row
from muster.errors import FeedError, NotFound
from muster.model.ids import DeploymentId

_DEV = "/api/v1/dev/deployment"
DEPLOYMENTS, CONTAINERS, EVENTS = f"{_DEV}/list", f"{_DEV}/container/list", f"{_DEV}/container/event/list"
HEAD_SIZE = 50

Head = tuple[frozenset[tuple[str, ...]], int | None]
"""The newest events of a deployment and how many there are: another head means that something happened."""


class Account:
    """What one token sees. Every method raises ``FeedError``."""

    def __init__(self, api: AsyncApi) -> None:
        self._pages = Pages(api)
        self.container_pages = 1
        """How long the list of all containers was when it was last read."""

    @property
    def calls(self) -> int:
        """How many requests have been made."""
        return self._pages.calls

    async def deployments(self, known: Collection[DeploymentId]) -> dict[DeploymentId, DeploymentRow]:
        """Return the live deployments; those of ``known`` are not missing by accident."""

        def body(uuid: str = "") -> dict[str, Any]:
            return {"status": RUNNING, **({"deployment_uuid": uuid} if uuid else {})}

        async def ask(uuid: str) -> Page:
            return await self._pages.page(DEPLOYMENTS, body(uuid))

        try:
            found = await self._pages.without_losing(known, DEPLOYMENTS, body(), deployment_row, ask)
        except NotFound as error:
            raise FeedError(str(error)) from error  # a list of everything is always there
        return {row.id: row for row in found.rows.values()}

    async def containers(
        self, deployment_id: DeploymentId | None, known: Mapping[str, DeploymentId]
    ) -> dict[str, ContainerRow]:
        """Return the running containers of a deployment, or of all; those of ``known`` are not missing by accident.

        Raises ``NotFound`` for a deployment that the API does not know.
        """

        def body(owner: DeploymentId | None, uuid: str = "") -> dict[str, Any]:
            wanted = {"deployment_uuid": owner} if owner else {}
            return {**wanted, "container_uuid": uuid, "released": False, "status": [RUNNING]}

        async def ask(uuid: str) -> Page:
            return await self._pages.page(CONTAINERS, body(known[uuid], uuid))

        found = await self._pages.without_losing(known, CONTAINERS, body(deployment_id), container_row, ask)
        for uuid, row in found.rows.items():
            if row.oddity:
                self._pages.warn(CONTAINERS, {"uuid": uuid}, row.oddity)
        if deployment_id is None:
            self.container_pages = found.pages
            return found.rows
        return {uuid: row for uuid, row in found.rows.items() if row.deployment_id == deployment_id}

    async def head(self, deployment_id: DeploymentId) -> Head:
        """Return the newest events of a deployment. Raises ``NotFound`` for one that the API does not know."""
        body = {"deployment_uuid": deployment_id, "deployment_container_uuid": ""}
        page = await self._pages.page(EVENTS, body, size=HEAD_SIZE)
        names = ("deployment_container_uuid", "status", "created_at", "id")
        told = (tuple(str(row.get(name)) for name in names) for row in page.rows if isinstance(row, dict))
        return frozenset(told), page.total
