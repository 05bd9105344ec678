"""What an account looked like when it was last read, and how to read it with few calls.

The truth is the list of containers that the API calls running. One call reads it for a whole account. An API that
insists on a deployment is asked for the newest events of each instead, and for a deployment's containers when those
moved, or every 30 s: events may come late, twice or never, so they are only a hint to look.

What was seen is replaced when it has been read, and stays as it is when that fails. Refused: believing an answer of
nothing from an API that has never listed a whole account, while its own deployments claim to have running containers;
and dropping a container because one reading of many pages missed it (``poll_pages.py``).
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

from muster.client.async_api import AsyncApi
from muster.clock import Clock
from muster.discovery.poll_api import Account, Head
from muster.discovery.poll_rows import ContainerRow, DeploymentRow
from muster.discovery.poll_view import oldest_by_name
from muster.errors import FeedError, FeedRefused, NotFound
from muster.model.ids import DeploymentId

DEPLOYMENT_INTERVALS = 6
"""The list of deployments is read every so many intervals, and whenever something unknown shows up."""
RELIST_SECONDS = 30.0
"""How long an API's silence about events is believed."""
AT_ONCE = 4
"""Calls under way at once where each deployment takes one."""
NAMES_KEPT = 10_000
DOUBTS = 3
"""So often an API may fail to list the whole account, with no clear word, until it is not asked for that any more."""
ASK_AGAIN_SECONDS = 600.0
"""After so long it is asked for that again: it may only have been in trouble."""
_UNKNOWN_RECORD = "RecordNotFoundError"
_INSISTS = frozenset({"RequestParameterIsWrong", "BadRequest", _UNKNOWN_RECORD})

_log = logging.getLogger(__name__)


class World:
    """One account, or of it the deployments that ``followed`` names by uuid or name. One reading at a time."""

    def __init__(self, api: AsyncApi, clock: Clock, followed: Collection[str], interval_seconds: float) -> None:
        self._account = Account(api)
        self._clock = clock
        self._followed = frozenset(followed)
        self._absent: frozenset[str] = frozenset()
        self._deployment_seconds = DEPLOYMENT_INTERVALS * interval_seconds
        self._deployments_due_at = clock.monotonic()
        self._unknown: frozenset[DeploymentId] = frozenset()
        self._heads: dict[DeploymentId, Head] = {}
        self._listed_at: dict[DeploymentId, float] = {}
        self._is_account_wide: bool | None = None
        self._account_due_at = 0.0
        self._doubts = 0
        self._names: dict[DeploymentId, str] = {}
        self.live: Mapping[DeploymentId, DeploymentRow] = {}
        self.oldest: Mapping[str, DeploymentId] = {}
        """Which deployment each name stands for."""
        self.rows: Mapping[DeploymentId, Sequence[ContainerRow]] = {}
        """The running containers of each deployment that has any."""

    @property
    def calls(self) -> int:
        """How many calls of the API were made."""
        return self._account.calls

    @property
    def present(self) -> set[DeploymentId]:
        """The followed deployments that live or have running containers."""
        return {each for each in {*self.live, *self.rows} if self.is_followed(each)}

    def is_followed(self, deployment_id: DeploymentId) -> bool:
        """Whether this is one of those that were asked for."""
        return not self._followed or bool({deployment_id, self.name_of(deployment_id)} & self._followed)

    def name_of(self, deployment_id: DeploymentId) -> str:
        """Return a deployment's name, also when it is gone; empty if it was never seen."""
        return self._names.get(deployment_id, "")

    def distrust_events(self) -> None:
        """List the containers at the next poll whatever the events say: some may be lost for good."""
        self._listed_at.clear()

    async def read_all(self, *, is_poll: bool) -> None:
        """Read everything; a poll leaves out what is known not to have changed. Raises ``FeedError``."""
        if self._is_account_wide is False and self._clock.monotonic() >= self._account_due_at:
            self._is_account_wide, self._doubts = None, 0
        if self._is_account_wide is not False and await self._read_account():
            if not is_poll or self._has_to_look_at_deployments():
                await self._read_deployments()
            return
        if not is_poll or self._is_deployment_list_due():
            await self._read_deployments()
        await self._list_each(self.present, by_events=is_poll)
        self._set_rows(row for each in self.present for row in self.rows.get(each, ()))

    async def read_some(self, wanted: Collection[DeploymentId]) -> None:
        """Read some deployments with as few calls. Raises ``FeedError``."""
        await self._read_deployments(wanted)
        is_cheap = self._is_account_wide and len(wanted) >= self._account.container_pages
        if not is_cheap or not await self._read_account():
            await self._list_each(wanted, by_events=False)

    async def _read_account(self) -> bool:
        """Read all containers with one list; return whether there was an answer to believe."""
        known = {row.uuid: each for each in self.present for row in self.rows.get(each, ())}
        try:
            rows = await self._account.containers(None, known)
        except (FeedError, NotFound) as error:
            self._doubt(error)
            return False
        if rows:
            self._is_account_wide, self._doubts = True, 0
        elif not self._is_account_wide:
            await self._read_deployments()
            if self.rows or any(row.running_num != 0 for row in self.live.values()):
                self._doubt(None)
                return False
        self._set_rows(rows.values())
        return True

    def _doubt(self, error: FeedError | NotFound | None) -> None:
        """Take a refusal for what it may be, an API that wants to be asked for each deployment; raise any other."""
        code = error.code if isinstance(error, FeedError) else _UNKNOWN_RECORD
        if error is not None and (not code or isinstance(error, FeedRefused)):
            raise error
        insists = error is not None and code in _INSISTS
        self._doubts += 1
        if self._is_account_wide and error is not None and not (insists and self._doubts >= DOUBTS):
            raise FeedError(str(error), code) from error  # it could before
        if insists or self._doubts >= DOUBTS:
            self._is_account_wide = False
            self._account_due_at = self._clock.monotonic() + ASK_AGAIN_SECONDS
            _log.info("the API lists containers by deployment only: %s", error or "all it says is nothing")

    async def _read_deployments(self, also: Collection[DeploymentId] = ()) -> None:
        known = [*self.live, *(each for each in also if each not in self.live)]
        self.live = await self._account.deployments(known)
        self.oldest = oldest_by_name(self.live.values())
        self._names |= {row.id: row.name for row in self.live.values()}
        for each in [each for each in self._names if each not in self.live][:-NAMES_KEPT]:
            del self._names[each]
        self._unknown = frozenset(self.rows.keys() - self.live.keys())
        self._deployments_due_at = self._clock.monotonic() + self._deployment_seconds
        absent = self._followed - {*self.live, *(row.name for row in self.live.values())}
        for name in sorted(absent - self._absent):
            _log.info("deployment %r does not exist; it is followed when it appears", name)
        self._absent = absent

    def _is_deployment_list_due(self) -> bool:
        return self._clock.monotonic() >= self._deployments_due_at

    def _has_to_look_at_deployments(self) -> bool:
        """Whether the list is due, or a container is of a deployment that was not in it.

        One that loses its containers is looked at by whoever is told of that.
        """
        return self._is_deployment_list_due() or bool(self.rows.keys() - self.live.keys() - self._unknown)

    async def _list_each(self, wanted: Iterable[DeploymentId], *, by_events: bool) -> None:
        places, unknown = asyncio.Semaphore(AT_ONCE), set[DeploymentId]()

        async def look(deployment_id: DeploymentId) -> None:
            async with places:
                try:
                    await self._list_one(deployment_id, by_events=by_events)
                except NotFound:
                    unknown.add(deployment_id)

        try:
            async with asyncio.TaskGroup() as group:
                for each in sorted(wanted):
                    group.create_task(look(each), name=f"containers of {each}")
        except ExceptionGroup as failed:
            raise _first(failed) from failed
        if unknown & self.live.keys():
            await self._read_deployments(unknown)
        for each in unknown:
            if each in self.live:
                raise FeedError(f"the API lists deployment {each} and does not know its containers")
            self._replace(each, ())

    async def _list_one(self, deployment_id: DeploymentId, *, by_events: bool) -> None:
        head: Head | None = None
        if by_events:
            head = await self._account.head(deployment_id)
            listed_at = self._listed_at.get(deployment_id)
            is_recent = listed_at is not None and self._clock.monotonic() - listed_at < RELIST_SECONDS
            if is_recent and self._heads.get(deployment_id) == head:
                return
        began = self._clock.monotonic()
        known = {row.uuid: deployment_id for row in self.rows.get(deployment_id, ())}
        rows = await self._account.containers(deployment_id, known)
        self._replace(deployment_id, rows.values())
        self._listed_at[deployment_id] = began
        if head is not None:
            self._heads[deployment_id] = head

    def _replace(self, deployment_id: DeploymentId, rows: Iterable[ContainerRow]) -> None:
        others = (row for each, kept in self.rows.items() if each != deployment_id for row in kept)
        self._set_rows([*others, *rows])

    def _set_rows(self, rows: Iterable[ContainerRow]) -> None:
        grouped: dict[DeploymentId, list[ContainerRow]] = {}
        for row in rows:
            grouped.setdefault(row.deployment_id, []).append(row)
        self.rows = grouped


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
