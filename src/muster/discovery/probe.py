"""Whether foreign addresses answer: for containers of an API that says *running* and nothing about *ready*.

Whoever follows the API gives the complete set of addresses (``follow``); ``run`` looks at them, at once, then every
second or a few until one answers, then every ten. Ready means that somebody answered.

Busy is not dead: three failures in a row take an address back, but no answer in time is no failure, unless nothing has
been answered for ten minutes; nor is a refusal that asks to come again. And our own trouble is not theirs: nobody is
taken back when no address at all can be reached, or while the API, which would say who has ended, is away (``hold``).

When a watcher starts, what an earlier one published is still in the registry. Of the addresses that it meets first,
those which keep silent or call themselves busy count as ready, so that a restart takes no loaded replica away. And what
is found published when it is taken over (``adopt``) counts as ready until it fails as often as anybody.

At most 32 looks at once, and few per second at one host, which may be a gateway for all.
"""

import asyncio
import logging
import random
import ssl
import urllib.parse
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import httpx

from muster.clock import Clock, wait_for_event
from muster.discovery.probe_call import TIMEOUT_SECONDS, Caller, Outcome

AT_ONCE = 32
PER_SECOND_AND_HOST = 50.0
FIRST_REST_SECONDS, LONGEST_REST_SECONDS, READY_REST_SECONDS = 1.0, 5.0, 10.0
FAILURES = 3
SILENCE_SECONDS = 600.0
"""As long as the longest request is thought to keep a replica from answering anything else."""
FIRST_LOOK_SECONDS = 60.0
JITTER = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """A port of one container, and where it is reached: a container started anew is another one."""

    container: str
    port: int
    url: str


@dataclass(slots=True)
class _State:
    completed_at: float
    is_of_start: bool
    is_ready: bool = False
    looks: int = 0
    failures: int = 0
    last: Outcome | None = None


class Probes:
    """Looks at addresses while somebody runs ``run``, once. ``verify`` is httpx's: whom to trust for ``https``."""

    def __init__(
        self,
        clock: Clock,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        verify: ssl.SSLContext | bool = True,
        path: str = "/",
        timeout_seconds: float = TIMEOUT_SECONDS,
        rng: random.Random | None = None,
    ) -> None:
        self._clock = clock
        self._caller = Caller(transport, verify, path, timeout_seconds)
        self._rng = rng or random.Random()  # noqa: S311 - spreads looks over time
        self._states: dict[Target, _State] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._free_at: dict[str, float] = {}
        self._has_targets = asyncio.Event()
        self._has_warned = False
        self.news = asyncio.Event()
        """Set, and replaced by another one, when an address became ready or unready: take it, then ask."""
        self.hold = False
        """While set, nobody is taken back."""

    @property
    def is_cut_off(self) -> bool:
        """Whether no address at all can be reached, which says more about our network than about them."""
        lasts = [state.last for state in self._states.values()]
        return len(lasts) > 1 and all(last is Outcome.UNREACHABLE for last in lasts)

    def follow(self, targets: Collection[Target], *, is_start: bool = False) -> None:
        """Look at these from now on, and at no others. ``is_start``: an earlier life may have published them."""
        now = self._clock.monotonic()
        self._states = {target: self._states.get(target) or _State(now, is_start) for target in targets}
        hosts = {_host(target) for target in targets}
        self._free_at = {host: at for host, at in self._free_at.items() if host in hosts}
        self._has_targets.set()

    def adopt(self, targets: Iterable[Target]) -> None:
        """Take those of ``targets`` that are followed for ready until they really fail, unless they have."""
        found = [self._states[target] for target in targets if target in self._states]
        adopted = [state for state in found if not state.is_ready and state.failures < FAILURES]
        for state in adopted:
            state.is_ready = True
        if adopted:
            self._tell()

    def is_ready(self, target: Target) -> bool:
        """Whether somebody answers there, as far as is known."""
        state = self._states.get(target)
        return state is not None and state.is_ready

    async def first_looks(self, seconds: float = FIRST_LOOK_SECONDS) -> bool:
        """Wait until every address has been looked at, so long at most; returns whether that was so."""
        until = self._clock.monotonic() + seconds
        while not all(state.looks for state in self._states.values()):
            if (left := until - self._clock.monotonic()) <= 0:
                return False
            await wait_for_event(self.news, self._clock, left)
        return True

    async def run(self) -> None:
        """Look for ever."""
        tasks: dict[Target, asyncio.Task[None]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._has_targets.clear()
                    for target in tasks.keys() - self._states.keys():
                        tasks.pop(target).cancel()
                    for target in [each for each in self._states if each not in tasks or tasks[each].done()]:
                        tasks[target] = group.create_task(self._watch(target), name=f"probe {target.container}")
                    await self._has_targets.wait()
        finally:
            await self._caller.aclose()

    async def _watch(self, target: Target) -> None:
        while True:
            await self._wait_for_host(_host(target))
            async with self._places:
                outcome = await self._caller.look(target.url)
            state = self._states.get(target)
            if state is None:
                return
            self._note(target, state, outcome)
            await self._clock.sleep(self._rest(state) * self._rng.uniform(1 - JITTER, 1 + JITTER))

    async def _wait_for_host(self, host: str) -> None:
        now = self._clock.monotonic()
        at = max(now, self._free_at.get(host, now))
        self._free_at[host] = at + 1 / PER_SECOND_AND_HOST
        if at > now:
            await self._clock.sleep(at - now)

    def _rest(self, state: _State) -> float:
        if state.is_ready:
            return READY_REST_SECONDS
        return min(LONGEST_REST_SECONDS, FIRST_REST_SECONDS * 1.5 ** min(state.looks - 1, 10))

    def _note(self, target: Target, state: _State, outcome: Outcome) -> None:
        was_ready, is_first = state.is_ready, state.looks == 0
        state.looks += 1
        state.last = outcome
        self._judge(target, state, outcome, may_adopt=is_first and state.is_of_start)
        if not self.is_cut_off:
            self._has_warned = False
        if is_first or was_ready is not state.is_ready:
            self._tell()

    def _tell(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    def _judge(self, target: Target, state: _State, outcome: Outcome, *, may_adopt: bool) -> None:
        now = self._clock.monotonic()
        match outcome:
            case Outcome.ANSWERED:
                state.is_ready, state.failures, state.completed_at = True, 0, now
                return
            case Outcome.BUSY:
                state.is_ready, state.failures, state.completed_at = state.is_ready or may_adopt, 0, now
                return
            case Outcome.TIMED_OUT if now - state.completed_at < SILENCE_SECONDS:
                state.is_ready = state.is_ready or may_adopt
                return
        state.failures += 1
        if state.is_ready and state.failures >= FAILURES and not self._is_our_trouble():
            state.is_ready, state.looks = False, 1
            _log.info("%s port %d does not answer any more: withheld", target.container, target.port)

    def _is_our_trouble(self) -> bool:
        if self.is_cut_off and not self._has_warned:
            self._has_warned = True
            _log.warning("none of %d addresses can be reached: is it our network? All are kept", len(self._states))
        return self.hold or self.is_cut_off


def _host(target: Target) -> str:
    return urllib.parse.urlsplit(target.url).hostname or ""
