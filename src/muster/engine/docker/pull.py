"""Images on their way: one fetch per reference, however many containers wait for it.

In: orders, asked again and again by whoever waits. Out: held, or how far it is in words, or why it cannot be had. The
fetch itself is a task of this process; if it dies with it, the next ask begins again, and Docker keeps the layers that
were complete.

**Answers.** Who waited is told the outcome with his next ask, once; who comes later begins anew. An order that is
always to be pulled is served by a fetch that began after it was first asked, since an older one may have seen an older
tag: those who join a fetch wait for one more, all together, which is a look at the registry and no download.

**Failures.** Docker's words say which kind it is (``pull_words``). What may pass by itself is tried again with growing
pauses before it counts. A daemon that is away says nothing about the image: nobody is answered, and all ask anew.

**Whose it is.** What an account fetched with a password is given to another one only after the registry let that one
in, too (``access``); pulling would not show that, because Docker does not ask for what it has by its digest. An image
that was saved from a container is its account's, and never fetched from anywhere.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from muster.engine.docker.access import Access
from muster.engine.docker.connection import Connection
from muster.engine.docker.fetch import SILENCE_SECONDS, Failure, Fetcher
from muster.engine.docker.held import find_image, read_reference
from muster.engine.docker.pull_words import RETRIED, Progress, explain
from muster.errors import EngineRejected, EngineUnavailable
from muster.model.container import Reason
from muster.model.ids import AccountId
from muster.model.image import HeldImage, ImageOrder, ImageProgress
from muster.model.reference import Reference, saved_by

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds between attempts while a registry cannot be reached; then the containers fail and their deployment waits."""
_NOWHERE = ".invalid"
"""Registries that cannot be (RFC 2606): of images that this host made."""
_MOST_ANSWERS = 10_000
"""Some are for nobody: those who were given up while they waited."""


@dataclass(frozen=True, slots=True)
class _Key:
    """What makes two orders one fetch: the reference, and if there is a password, whose it is."""

    reference: Reference
    has_password: bool
    account_id: AccountId | None


@dataclass(frozen=True, slots=True)
class _Waiter:
    """Somebody who asked; ``wake`` is called when there is an answer."""

    order: ImageOrder
    wake: Callable[[], None]


@dataclass(slots=True)
class _Fetch:
    """One fetch under way, for those who are ``waiting``; who came too ``late`` for it has the next one."""

    progress: Progress
    waiting: dict[str, _Waiter]
    late: dict[str, _Waiter] = field(default_factory=dict)
    trouble: str = ""
    task: "asyncio.Task[None] | None" = None

    def join(self, asker: str, waiter: _Waiter) -> ImageProgress:
        """Wait for it; tells how far it is."""
        if asker not in self.waiting:
            (self.late if waiter.order.is_always_pulled else self.waiting)[asker] = waiter
        return ImageProgress(progress=self.trouble or self.progress.text)


class Puller:
    """Fetches images for one daemon; ``pauses`` and ``silence_seconds`` are shorter in tests."""

    def __init__(
        self,
        connection: Connection,
        access: Access,
        *,
        pauses: Sequence[float] = PAUSES,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._connection = connection
        self._access = access
        self._fetcher = Fetcher(connection, silence_seconds)
        self._pauses = pauses
        self._fetches: dict[_Key, _Fetch] = {}
        self._answers: dict[tuple[_Key, str], str] = {}
        self._is_closed = False

    async def ask(self, order: ImageOrder, asker: str, wake: Callable[[], None] = lambda: None) -> ImageProgress:
        """Tell how far an order is; begins it if nobody has. Raises ``EngineRejected``: what is wrong, what to do.

        ``asker`` names who waits; ``wake`` is called when there is an answer for him.
        """
        reference = read_reference(order.reference)
        if reference.registry.endswith(_NOWHERE):
            return ImageProgress(await self._made_here(order, reference))
        has_password = order.credential is not None
        key = _Key(reference, has_password, order.account_id if has_password else None)
        is_served = False
        while True:
            failure = self._answers.pop((key, asker), None)
            if failure:
                raise EngineRejected(Reason.IMAGE_PULL_FAILED, failure)
            is_served = is_served or failure is not None
            fetch = self._fetches.get(key)
            if is_served or not self._must_ask_registry(order, reference):
                held = await find_image(self._connection, reference)
                if held is not None:
                    return ImageProgress(held)
            if self._fetches.get(key) is fetch:  # none began or ended while we looked
                break
        waiter = _Waiter(order, wake)
        if fetch is None:
            fetch = self._begin(key, {asker: waiter})
        return fetch.join(asker, waiter)

    async def close(self) -> None:
        """End what is under way."""
        self._is_closed = True
        tasks = [fetch.task for fetch in self._fetches.values() if fetch.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _made_here(self, order: ImageOrder, reference: Reference) -> HeldImage:
        """Return an image that no registry has, to the account that saved it."""
        owner = saved_by(str(reference))
        is_allowed = owner is not None and order.account_id in {None, owner}
        held = await find_image(self._connection, reference) if is_allowed else None
        if held is None:
            words = "no such image was saved on this machine, or it was removed"
            raise EngineRejected(Reason.IMAGE_PULL_FAILED, f"{reference}: {words}")
        return held

    def _must_ask_registry(self, order: ImageOrder, reference: Reference) -> bool:
        """Tell whether an image that is there would not do; a digest never stands for anything newer."""
        may_be_newer = order.is_always_pulled and not reference.digest
        return may_be_newer or not self._access.may_use(reference.name, order.account_id)

    # One fetch.

    def _begin(self, key: _Key, waiting: dict[str, _Waiter]) -> _Fetch:
        if self._is_closed:
            raise EngineUnavailable(f"{key.reference} is not fetched: the engine was closed")
        fetch = self._fetches[key] = _Fetch(Progress(key.reference), waiting)
        fetch.task = asyncio.create_task(self._run(key, fetch), name=f"pull {key.reference}")
        return fetch

    async def _run(self, key: _Key, fetch: _Fetch) -> None:
        """Fetch, and answer everybody unless nothing is known."""
        try:
            failure = await self._persist(key.reference, fetch)
        except EngineUnavailable:
            return
        except EngineRejected as error:
            failure = str(error)
        finally:
            del self._fetches[key]
        answered = {**fetch.waiting, **fetch.late} if failure else fetch.waiting
        for asker in answered:
            self._answers[key, asker] = failure
        while len(self._answers) > _MOST_ANSWERS:
            self._answers.pop(next(iter(self._answers)))
        if fetch.late and not failure and not self._is_closed:
            self._begin(key, fetch.late)
        for waiter in answered.values():
            waiter.wake()

    async def _persist(self, reference: Reference, fetch: _Fetch) -> str:
        """Try until it is there; return why it cannot be had, empty if it can."""
        order = next(iter(fetch.waiting.values())).order
        pauses = iter(self._pauses)
        while True:
            try:
                failure = await self._attempt(order, reference, fetch)
            except OSError as error:
                return f"{reference}: it cannot be noted who may use it: {error}"
            if failure is None:
                return ""
            words = explain(failure.kind, failure.said, reference, order.credential)
            pause = next(pauses, None) if failure.kind in RETRIED else None
            if pause is None:
                return words
            fetch.trouble = f"{words}; again in {pause:g} s"
            await asyncio.sleep(pause)
            fetch.trouble = ""

    async def _attempt(self, order: ImageOrder, reference: Reference, fetch: _Fetch) -> Failure | None:
        """See that the registry lets the account in, and that the image is there, as new as ordered."""
        failure = None
        if not self._access.may_use(reference.name, order.account_id):
            failure = await self._fetcher.knock(reference, order.credential)
        if failure is None and (order.is_always_pulled or not await find_image(self._connection, reference)):
            if order.credential is not None:
                await self._access.restrict(reference.name)
            failure = await self._fetcher.pull(reference, order.credential, fetch.progress)
        if failure is None:
            accounts = {waiter.order.account_id for waiter in fetch.waiting.values()}
            await self._access.allow(reference.name, [each for each in accounts if each is not None])
        return failure
