"""Prewarms: images that machines are to hold before anybody waits for them → held, or why not.

A key is an image; the machines that are to hold it are asked side by side, again and again until each has it. The wish
was committed before this loop hears of it and stays until its outcome is committed; asking again is harmless, so a
crash anywhere is repaired by asking again.

The registry is asked also where a machine has an image of that name, because the name may stand for something newer by
now. If the registry is of no help then, what is there will do: it may never have come from a registry.
"""

import asyncio
import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from muster.clock import Clock
from muster.engine.port import Engine
from muster.errors import EngineError, EngineRejected, EngineUnavailable, SetupError
from muster.model.ids import ImageUuid
from muster.model.image import HeldImage, ImageOrder, Prewarm, PrewarmState
from muster.store.fetched import note_fetched
from muster.store.keyring import CredentialFor
from muster.store.port import Store, Transaction

RECHECK_SECONDS = 1.0
"""How soon to ask again how far a fetch is."""
UNREACHABLE_RECHECK_SECONDS = 10.0
"""How soon to ask again when none of the engines that still have something to do can be reached."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """A prewarm and the order that would fulfil it; or why there can be none."""

    prewarm: Prewarm
    order: ImageOrder | None = None
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one look made of a prewarm."""

    before: Prewarm
    after: Prewarm
    held: HeldImage | None = None
    is_reachable: bool = True

    @property
    def is_open(self) -> bool:
        """Whether there is still something to ask for."""
        return self.after.state is PrewarmState.WANTED


class PrewarmReconciler:
    """Prewarms images; see the module's text."""

    name = "prewarm"

    def __init__(self, store: Store, engine: Engine, clock: Clock, credential_for: CredentialFor) -> None:
        self._store = store
        self._engine = engine
        self._clock = clock
        self._credential_for = credential_for

    async def keys(self) -> Iterable[ImageUuid]:
        """Return the images that are to be somewhere."""
        return {prewarm.image_uuid for prewarm in await self._store.read(lambda tx: tx.prewarms.wanted())}

    async def reconcile(self, key: ImageUuid) -> datetime.datetime | None:
        """Ask every machine that is to hold an image how far it is."""
        wishes = await self._store.read(lambda tx: self._load(tx, key))
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask(wish), name=f"prewarm {wish.prewarm.machine_id}") for wish in wishes]
        answers = [task.result() for task in asked]
        changed = [answer for answer in answers if answer.after != answer.before]
        if changed:
            await self._store.write(lambda tx: _commit(tx, changed))
        open_ones = [answer for answer in answers if answer.is_open]
        if not open_ones:
            return None
        is_any_reachable = any(answer.is_reachable for answer in open_ones)
        seconds = RECHECK_SECONDS if is_any_reachable else UNREACHABLE_RECHECK_SECONDS
        return self._clock.now() + datetime.timedelta(seconds=seconds)

    async def _ask(self, wish: _Wish) -> _Answer:
        if wish.order is None:
            return self._answer(wish, PrewarmState.FAILED, wish.obstacle)
        try:
            progress = await self._engine.prepare(wish.prewarm.machine_id, wish.order)
        except EngineUnavailable as error:
            return replace(self._answer(wish, PrewarmState.WANTED, str(error)), is_reachable=False)
        except EngineRejected as error:
            there = await self._what_is_there(wish.prewarm, wish.order)
            if there is None:
                return self._answer(wish, PrewarmState.FAILED, str(error))
            return self._answer(wish, PrewarmState.DONE, f"kept what is there: {error}", there)
        if progress.held is None:
            return self._answer(wish, PrewarmState.WANTED, progress.progress)
        return self._answer(wish, PrewarmState.DONE, "", progress.held)

    async def _what_is_there(self, prewarm: Prewarm, order: ImageOrder) -> HeldImage | None:
        """Return what a machine has under the name; only one that is known to have it is asked, or it would fetch."""
        holders = await self._store.read(lambda tx: tx.held_images.holders(order.reference))
        if not order.is_always_pulled or prewarm.machine_id not in holders:
            return None
        try:
            return (await self._engine.prepare(prewarm.machine_id, replace(order, is_always_pulled=False))).held
        except EngineError:
            return None

    def _answer(self, wish: _Wish, state: PrewarmState, message: str, held: HeldImage | None = None) -> _Answer:
        before = wish.prewarm
        if (before.state, before.message) == (state, message):
            return _Answer(before, before)
        if held is not None and wish.order is not None:
            held = replace(held, reference=wish.order.reference)
        return _Answer(before, replace(before, state=state, message=message, updated_at=self._clock.now()), held)

    def _load(self, tx: Transaction, key: ImageUuid) -> Sequence[_Wish]:
        wanted = [each for each in tx.prewarms.of(key) if each.state is PrewarmState.WANTED]
        offered = {machine.id for machine in tx.machines.offered()} if wanted else set()
        return [
            self._wish(tx, each)
            if each.machine_id in offered
            else _Wish(each, obstacle=f"machine {each.machine_id} is no longer offered")
            for each in wanted
        ]

    def _wish(self, tx: Transaction, prewarm: Prewarm) -> _Wish:
        image = tx.images.get(prewarm.account_id, prewarm.image_uuid)
        if image is None:
            return _Wish(prewarm, obstacle=f"image {prewarm.image_uuid} is not in the catalogue")
        try:
            credential = self._credential_for(tx, prewarm.account_id, image.reference)
        except SetupError as error:
            return _Wish(prewarm, obstacle=str(error))
        is_pinned = "@" in image.reference  # to a digest, which never stands for anything else
        return _Wish(prewarm, ImageOrder(image.reference, not is_pinned, credential, prewarm.account_id))


def _commit(tx: Transaction, answers: Iterable[_Answer]) -> None:
    for answer in answers:
        before = answer.before
        if before not in tx.prewarms.of(before.image_uuid):
            continue  # it was given up, or wished for anew, since it was asked for
        tx.prewarms.update(answer.after)
        if answer.held is not None:
            note_fetched(tx, before.account_id, before.image_uuid, before.machine_id, answer.held)
