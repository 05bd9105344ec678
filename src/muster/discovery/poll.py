"""A feed of any API that speaks AutoDL's protocol, by asking it from time to time.

Published are the containers that the API calls running (``poll_world.py`` reads that with few calls) and that are
ready, too: by what the API says, as Muster's does, or by a probe of their addresses (``probe.py``).

``services`` and ``service`` answer from a reading that began after they were called; callers who wait together share
one. While the API fails it is asked more and more seldom (``poll_pace.py``), whoever asks; nothing that was seen is
forgotten meanwhile, and nothing is told that nobody could be told more about. No time of the API is ever compared with
ours.

The cursor counts changes of what is published, whoever found them: a poll, a reading for somebody, or a probe, which is
told at once.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Collection

from muster.client.async_api import AsyncApi
from muster.clock import Clock, wait_for_event
from muster.discovery.poll_pace import Pace
from muster.discovery.poll_rows import ContainerRow
from muster.discovery.poll_view import service_state
from muster.discovery.poll_world import World
from muster.discovery.probe import Probes, Target
from muster.errors import CursorExpired, FeedError
from muster.model.event import Cursor
from muster.model.feed import ChangeBatch, Listing, ServiceState
from muster.model.ids import DeploymentId

INTERVAL_SECONDS = 5.0
LOOK_SECONDS, LISTING_LOOK_SECONDS = 0.4, 3.0
"""How long what was read waits for the first look at new addresses: who replaces somebody then joins as the other one
leaves, and a set whose containers were all replaced is not empty in between. Longer after an absence, which may have
changed everything."""
PATIENCE = 2
"""How often the API may fail in a row before the reader of changes is told."""


class PollFeed:
    """What one account publishes, or of it the ``deployments`` given by uuid or name. Fulfils ``model.feed.Feed``.

    ``account`` names it in keys; ``concurrency`` is what each container declares, and ``ca_pem`` whom clients have to
    trust beside everybody's authorities, for the API has no word for either.
    Somebody has to run ``probes``, which belong to this feed alone.
    """

    def __init__(
        self,
        api: AsyncApi,
        clock: Clock,
        probes: Probes,
        *,
        account: str,
        deployments: Collection[str] = (),
        interval_seconds: float = INTERVAL_SECONDS,
        concurrency: int | None = None,
        ca_pem: str | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._clock = clock
        self._probes = probes
        self._name = account
        self._concurrency = concurrency
        self._ca_pem = ca_pem
        self._world = World(api, clock, deployments, interval_seconds)
        rng = rng or random.Random()  # noqa: S311 - spreads calls over time
        self._pace = Pace(clock, interval_seconds, rng)
        self._meeting = Pace(clock, interval_seconds, rng)
        self._has_met = False
        self._lock = asyncio.Lock()
        self._readings = 0
        self._whole_reading = 0
        self._reading_of: dict[DeploymentId, int] = {}
        self._wanted: set[DeploymentId] = set()
        self._told: dict[DeploymentId, ServiceState] = {}
        self._changed_at: dict[DeploymentId, int] = {}
        self._count = 0
        self._version = 0
        self._noticed: tuple[int, asyncio.Event] | None = None

    @property
    def api_calls(self) -> int:
        """How many calls of the API were made."""
        return self._world.calls

    async def services(self) -> Listing:
        """Return every live deployment that is followed; the first time, when its addresses have been probed."""
        asked = self._readings
        self._meeting.check()
        async with self._lock:
            if self._whole_reading <= asked:
                await self._read(None)
        if not self._has_met:
            await self._meet()
        else:
            await self._probes.first_looks(LISTING_LOOK_SECONDS)
        self._notice()
        return Listing([self._state(each) for each in sorted(self._world.present)], Cursor(self._count))

    async def service(self, deployment_id: DeploymentId) -> ServiceState | None:
        """Return one deployment as it is now."""
        asked = self._readings
        self._wanted.add(deployment_id)
        async with self._lock:
            if max(self._whole_reading, self._reading_of.get(deployment_id, 0)) <= asked:
                wanted, self._wanted = self._wanted | {deployment_id}, set()
                await self._read(wanted)
        await self._probes.first_looks(LOOK_SECONDS)
        self._notice()
        if deployment_id in self._world.live and not self._world.is_followed(deployment_id):
            return None
        return self._state(deployment_id)

    async def changes(self, cursor: Cursor) -> AsyncIterator[ChangeBatch]:
        """Yield batches after ``cursor`` for ever; polls. Raises ``FeedError`` when the API failed twice in a row."""
        if cursor > self._count:
            raise CursorExpired("the cursor is of another life of this feed")
        while True:
            news = self._probes.news
            self._notice()
            changed = frozenset(each for each, at in self._changed_at.items() if at > cursor)
            if changed and not self._pace.failures:
                cursor = Cursor(self._count)
                yield ChangeBatch(changed, cursor)
            elif self._pace.is_due:
                try:
                    await self._poll()
                except FeedError:
                    if self._pace.failures >= PATIENCE:
                        raise
            else:
                await wait_for_event(news, self._clock, self._pace.next_at - self._clock.monotonic())

    async def _poll(self) -> None:
        async with self._lock:
            if self._pace.is_due:  # or somebody has just read everything
                await self._read(None, is_poll=True)
        if self._has_met:
            await self._probes.first_looks(LOOK_SECONDS)

    async def _read(self, wanted: Collection[DeploymentId] | None, *, is_poll: bool = False) -> None:
        """Read the truth about some deployments or about all; the lock is held."""
        self._pace.check()
        self._readings += 1
        reading = self._readings
        try:
            if wanted is None:
                await self._world.read_all(is_poll=is_poll)
            else:
                await self._world.read_some(wanted)
        except FeedError as error:
            self._pace.failed(error)
            self._probes.hold = True
            self._world.distrust_events()
            raise
        finally:
            self._version += 1  # also of a reading that failed: it may have got half way
        if wanted is None and not is_poll:  # a poll may have left out what it had no hint of
            self._whole_reading = reading
            self._reading_of.clear()
        elif wanted is not None:
            self._reading_of.update(dict.fromkeys(wanted, reading))
        self._pace.went_well(was_poll=wanted is None)
        self._probes.hold = False
        self._follow_addresses()

    async def _meet(self) -> None:
        """Wait for the first look at each address: before that nobody is ready, which would be no truth to publish."""
        if not await self._probes.first_looks():
            error = FeedError("not all addresses of the containers could be probed within a minute")
        elif self._probes.is_cut_off:
            error = FeedError("none of the containers' addresses can be reached: is it our network?")
        else:
            self._has_met = True
            return
        self._meeting.failed(error)
        raise error

    def _follow_addresses(self) -> None:
        targets = [
            Target(row.uuid, port, url)
            for deployment_id in self._world.present
            for row in self._world.rows.get(deployment_id, ())
            if row.is_ready is None
            for port, url in row.urls.items()
        ]
        self._probes.follow(targets, is_start=not self._has_met)

    def _is_ready(self, row: ContainerRow, port: int) -> bool:
        if row.is_ready is not None:
            return row.is_ready
        return self._probes.is_ready(Target(row.uuid, port, row.urls[port]))

    def _state(self, deployment_id: DeploymentId) -> ServiceState:
        return service_state(
            self._name,
            deployment_id,
            self._world.name_of(deployment_id),
            self._world.rows.get(deployment_id, ()),
            is_ready=self._is_ready,
            oldest=self._world.oldest,
            concurrency=self._concurrency,
            ca_pem=self._ca_pem,
        )

    def _notice(self) -> None:
        """Count what differs from what it was when this was last done."""
        seen = self._version, self._probes.news
        if self._noticed == seen:
            return
        self._noticed = seen
        present = self._world.present
        for each in self._told.keys() | present:
            state = self._state(each)
            if self._told.get(each) != state:
                self._count += 1
                self._changed_at[each] = self._count
            if each in present:
                self._told[each] = state
            else:
                del self._told[each]
