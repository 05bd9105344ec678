"""Discovery from a hosted API into every registry, while everything that can go wrong does; nothing false is published.

Three ``muster watch`` processes follow a scripted AutoDL account of two deployments, in which ten things happen a
second: containers start, become ready later, stop, are reused. The watchers are killed and stopped at random; the
registry dies and comes back, once without its data; the API errs, repeats and swaps pages, and is silent for 20 s.
Ten times a second the sets are looked at.
"""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from muster.model.endpoint import EndpointSet, ServiceKey
from muster.testing.scripted_api import ScriptedApi
from tests.e2e.chaos import MUSTER, Diary, Life, Sampler, WatcherProcess, until
from tests.servers.etcd import EtcdServer
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.slow

INTERVAL_SECONDS = 1.0
BOUND_SECONDS = INTERVAL_SECONDS * 1.1 + 1.0
"""The poll interval with its jitter, and one second."""
LOOK_SECONDS = 2.0
"""What sampling, pages that are read again, and five processes on two cores add to what is seen: 0.6 s if nobody else
uses these."""
START_SECONDS = 6.0
"""After so long a process that was started, or a registry that came back, is counted on; half of it if it is calm."""
EVENTS_EACH = 250
STALL_SECONDS = 20.0
AGAIN_SECONDS = 30.0
"""The last call that was stalled is given up after 10 s, and the rest after several failures grows up to 13 s."""
PAUSE_SECONDS = 0.1
NAMES = ("asr", "ocr")


class Server(Protocol):
    """What is asked of a registry here: to die and to come back, with or without what it held."""

    @property
    def url(self) -> str: ...
    def kill(self) -> None: ...
    def restart(self, *, is_empty: bool) -> None: ...


class Folder:
    """A folder as a registry: it cannot die, but it can be emptied."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0

    @property
    def url(self) -> str:
        return f"file://{self._path}"

    def kill(self) -> None:
        pass

    def restart(self, *, is_empty: bool) -> None:
        if is_empty:
            self._count += 1
            self._path.rename(self._path.with_name(f"gone{self._count}"))


@pytest.fixture(params=["file", "redis", "etcd"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with ExitStack() as stack:
        match request.param:
            case "redis":
                yield stack.enter_context(RedisServer(tmp_path / "redis"))
            case "etcd":
                yield stack.enter_context(EtcdServer(tmp_path / "etcd"))
            case _:
                yield Folder(tmp_path / "registry")


class Chaos:
    """One run: the parts, and what is disturbed."""

    def __init__(self, api: ScriptedApi, server: Server, watchers: Sequence[WatcherProcess], diary: Diary) -> None:
        self.rng = random.Random(7)
        self.life = Life(api, self.rng, NAMES)
        self.api = api
        self.server = server
        self.watchers = watchers
        self.diary = diary
        self._registry_back_at: float | None = None
        self._has_been_emptied = False

    def live(self, events: int, *, disturbs_watchers: bool, disturbs_registry: bool) -> None:
        """Let so many things happen in the account, and every now and then one to those who tell of it."""
        for _ in range(events):
            self.life.act()
            if disturbs_watchers and self.rng.random() < 0.06:
                self._disturb_watcher()
            if disturbs_registry:
                self._disturb_registry()
            time.sleep(PAUSE_SECONDS)
        self._bring_registry_back()

    def _disturb_watcher(self) -> None:
        watcher = self.rng.choice(self.watchers)
        if not watcher.runs:
            watcher.revive()
        elif self.rng.random() < 0.5:
            watcher.kill()
        else:
            watcher.stop()

    def _disturb_registry(self) -> None:
        if self._registry_back_at is None:
            if self.rng.random() < 0.012:
                self.diary.begin("registry")
                self.server.kill()
                self._registry_back_at = time.monotonic() + self.rng.random() * 2
        elif time.monotonic() >= self._registry_back_at:
            self._bring_registry_back()

    def _bring_registry_back(self) -> None:
        if self._registry_back_at is not None:
            self.server.restart(is_empty=not self._has_been_emptied)
            self._has_been_emptied = True
            self._registry_back_at = None
            self.diary.end("registry")

    def could_be_relied_on(self, begin: float, end: float) -> bool:
        """Whether API, registry, and one and the same watcher were well from one moment to another, and settled."""
        return (
            self.diary.was_well("api", begin - START_SECONDS, end)
            and self.diary.was_well("registry", begin - START_SECONDS, end)
            and any(self.diary.was_well(each.name, begin - START_SECONDS, end) for each in self.watchers)
        )


def test_nothing_false_is_published_whatever_happens(server: Server, tmp_path: Path) -> None:
    diary = Diary()
    with ScriptedApi(seed=7) as api:
        api.world.page_cap = 5  # so that a list takes several pages
        command = [str(MUSTER), "watch", "--api", api.url, "--registry", server.url, "--feed", "poll"]
        command += ["--interval", f"{INTERVAL_SECONDS:g}s"]
        command += [part for name in NAMES for part in ("--deployment", name)]
        watchers = [WatcherProcess(name, command, tmp_path / f"{name}.log", diary) for name in "abc"]
        chaos = Chaos(api, server, watchers, diary)
        life = chaos.life
        keys = [ServiceKey("admin", uuid) for uuid in life.uuids]

        def is_exact() -> bool:
            life.let_come()
            seen = sampler.now()
            return len(seen) == len(keys) and all(is_right(key, seen[key]) for key in keys)

        def is_right(key: ServiceKey, found: EndpointSet | None) -> bool:
            if found is None or found.stale_since is not None:
                return False
            return [each.id for each in found.endpoints] == api.world.serving(key.service)

        def is_marked() -> bool:
            return all(found is not None and found.stale_since is not None for found in sampler.now().values())

        try:
            for watcher in watchers:
                watcher.start()
            with Sampler(server.url, keys) as sampler:
                until(is_exact, "the first sets", 20)
                api.world.troubles.chance(0.05, ("duplicated", "swapped", "shifted", "repeated"))
                chaos.live(EVENTS_EACH, disturbs_watchers=True, disturbs_registry=True)
                diary.begin("api")
                api.world.troubles.chance(0.2)
                chaos.live(EVENTS_EACH // 2, disturbs_watchers=True, disturbs_registry=False)
                for watcher in watchers:
                    watcher.revive()
                api.world.troubles.clear()
                api.world.troubles.order("stall", 1000, seconds=STALL_SECONDS)
                stalled_at = time.monotonic()
                chaos.live(EVENTS_EACH // 2, disturbs_watchers=False, disturbs_registry=False)
                until(is_marked, "sets that nobody can check say so", stalled_at + STALL_SECONDS - time.monotonic())
                until(lambda: time.monotonic() > stalled_at + STALL_SECONDS, "the end of the stall", STALL_SECONDS)
                api.world.troubles.clear()
                until(is_exact, "the exact sets after everything is well again", AGAIN_SECONDS)
                diary.end("api")
                chaos.live(30, disturbs_watchers=False, disturbs_registry=False)
                until(is_exact, "the exact sets after the last event", BOUND_SECONDS + 1.5 + LOOK_SECONDS)
        finally:
            for watcher in watchers:
                watcher.kill()
    check(chaos, sampler)


def check(chaos: Chaos, sampler: Sampler) -> None:
    """Hold everything that was seen against what was true."""
    life = chaos.life
    judged = 0
    fences: dict[ServiceKey, tuple[int, int]] = {}
    for sample in sampler.samples:
        if sample.found is None:
            continue
        assert sample.found.endpoints, f"{sample.key} was empty, and something ran all the time"
        assert fences.get(sample.key, (0, 0)) <= sample.found.fence, "a set went back"
        fences[sample.key] = sample.found.fence
        for endpoint in sample.found.endpoints:
            assert life.ready_at[endpoint.id] <= sample.at, f"{endpoint.id} was published before it was ready"
            died_at = life.died_at.get(endpoint.id)
            if died_at is not None and sample.found.stale_since is None:
                late = sample.at - died_at - BOUND_SECONDS - LOOK_SECONDS
                relied_from = sample.at - BOUND_SECONDS - LOOK_SECONDS
                if late > 0 and chaos.could_be_relied_on(relied_from, sample.at):
                    raise AssertionError(f"{endpoint.id} was published {sample.at - died_at:.1f} s after its death")
                judged += late <= 0 or chaos.could_be_relied_on(relied_from, sample.at)
    assert judged > 100, "too little was judged to mean anything"
    assert len(sampler.samples) > 200
