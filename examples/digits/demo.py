"""The main job, end to end: a ReplicaSet that heals itself, found and balanced. Run it with `make demo`.

It starts a platform of its own, deploys the digits service, sends every image again and again through the balanced
client, disturbs the platform four times meanwhile, and ends with a verdict: exit code 0 if every promise was kept.
"""

import argparse
import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable

import httpx

import muster
from examples.digits.load import Load, Tally, expected_accuracy
from examples.digits.sandbox import FLEET, Sandbox
from examples.digits.show import Check, Show
from examples.digits.target import Target, create_body, process_of, target
from muster.client import Client, Container, Event
from muster.errors import MusterError
from muster.model.container import ContainerStatus
from muster.sdk import Service

NAME = "digits"
SETTLE_SECONDS = 60.0
QUIET_REQUESTS = 500
"""Answers between two disturbances, so that each is seen alone and under load."""
_POLL_SECONDS = 0.05


class EventFollower:
    """Follows the event stream in a thread and tells each event once, also across a death of the server."""

    def __init__(self, connect: Callable[[], Client], tell: Callable[[Event], None]) -> None:
        self._connect = connect
        self._tell = tell
        self._cursor = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.events: list[Event] = []

    def start(self) -> None:
        """Begin at the oldest event."""
        self._thread.start()

    def stop(self) -> None:
        """End with the next event, or with the server."""
        self._is_over.set()

    def _follow(self) -> None:
        while not self._is_over.is_set():
            try:
                with self._connect() as client:
                    for event in client.events(after=self._cursor):
                        self._cursor = event.id
                        self.events.append(event)
                        self._tell(event)
            except MusterError:
                self._is_over.wait(0.1)


class Demo:
    """One run: what was deployed, what was seen."""

    def __init__(self, platform: Sandbox, engine: Target, show: Show) -> None:
        self._platform = platform
        self._engine = engine
        self._show = show
        self._client = platform.client()
        self._uuid = ""
        self._wanted = 0
        self._killed: set[str] = set()
        self._rows: list[list[str]] = []
        self._pids_kept = False
        self._events = EventFollower(platform.client, self._tell)

    async def run(self) -> bool:
        """Deploy, load, disturb, judge."""
        self._events.start()
        self._show.step("create a ReplicaSet of 3 through the AutoDL API")
        body = await asyncio.to_thread(lambda: create_body(NAME, 3, *self._engine.prepare(self._client)))
        self._uuid = await asyncio.to_thread(self._client.create_deployment, body)
        self._wanted = 3
        async with muster.connect(self._platform.registry_url) as connection:
            service = connection.service(NAME)
            await self._settled(service)
            self._show.step("send all 1,797 images again and again, 32 at a time, through the balanced client")
            tally = await self._disturbed_load(service)
            checks = await self._judge(tally)
        self._events.stop()
        self._show.disturbances(self._rows)
        self._show.timeline()
        return self._show.verdict(checks)

    async def _disturbed_load(self, service: Service) -> Tally:
        async with httpx.AsyncClient(
            transport=service.async_transport(), base_url=f"http://{NAME}", timeout=30.0
        ) as client:
            load = Load(client)
            with self._show.progress(load.tally):
                async with asyncio.TaskGroup() as group:
                    group.create_task(load.run())
                    for name, disturb in (
                        ("a container's process killed (SIGKILL)", self._kill_container),
                        ("scaled to 5", self._scale),
                        ("one container stopped, number decreased", self._stop_one),
                        ("the server killed (SIGKILL)", self._kill_server),
                    ):
                        await self._quiet(load.tally)
                        await self._disturb(name, disturb, load.tally, service)
                    await self._quiet(load.tally)
                    load.finish()
            return load.tally

    async def _disturb(self, name: str, disturb: Callable[[], Awaitable[None]], tally: Tally, service: Service) -> None:
        self._show.step(f"disturb: {name}")
        begun, answered, failed = time.monotonic(), tally.answered, tally.failed
        await disturb()
        await self._settled(service)
        seconds = time.monotonic() - begun
        self._show.moment(f"settled: {self._wanted} running and ready")
        self._rows.append(
            [
                name,
                f"{seconds:.2f} s",
                str(tally.answered - answered),
                str(tally.failed - failed),
                f"{1000 * tally.percentile(50, answered):.0f} ms",
                f"{1000 * tally.percentile(99, answered):.0f} ms",
            ]
        )

    async def _kill_container(self) -> None:
        victim = (await self._serving())[0]
        pid = await self._pid(victim)
        self._killed.add(victim.uuid)
        self._show.moment(f"kill -9 {pid}, the process of {victim.uuid}")
        os.kill(pid, signal.SIGKILL)

    async def _scale(self) -> None:
        self._wanted = 5
        await asyncio.to_thread(self._client.scale_deployment, self._uuid, 5)

    async def _stop_one(self) -> None:
        self._wanted = 4
        victim = (await self._serving())[-1]
        await asyncio.to_thread(self._client.stop_container, victim.uuid, decrease_one_replica_num=True)

    async def _kill_server(self) -> None:
        before = await self._pids()
        pid = self._platform.server_pid()
        self._show.moment(f"kill -9 {pid}, the server")
        os.kill(pid, signal.SIGKILL)
        await self._until(self._has_another_server(pid))
        self._show.moment("the supervisor brought the server back")
        self._pids_kept = await self._pids() == before

    def _has_another_server(self, pid: int) -> Callable[[], bool]:
        def is_back() -> bool:
            try:
                return self._client.is_ready() and self._platform.server_pid() != pid
            except RuntimeError:
                return False

        return is_back

    async def _settled(self, service: Service) -> None:
        """Wait until exactly the wanted containers run, are ready, and are what the client balances over."""

        def is_settled() -> bool:
            containers = [each for each in self._client.containers(self._uuid) if each.status != "shutdown"]
            ready = [each for each in containers if each.status == "running" and each.is_ready]
            serving = {each.uuid for each in ready}
            known = {replica.id for replica in service.statistics().replicas}
            is_whole = len(containers) == len(ready) == self._wanted
            return is_whole and serving == known and serving.isdisjoint(self._killed)

        await service.wait_ready(timeout=SETTLE_SECONDS)
        await self._until(is_settled)

    async def _judge(self, tally: Tally) -> list[Check]:
        expected = await asyncio.to_thread(expected_accuracy)
        accuracy = tally.correct / tally.answered
        serving = await self._serving()
        replaced = {each.uuid for each in serving}.isdisjoint(self._killed) and len(serving) == self._wanted
        histories = await asyncio.to_thread(self._histories)
        illegal = [uuid for uuid, words in histories.items() if not _is_legal(words)]
        failures = "; ".join(f"{count} x {what}" for what, count in tally.failures.items())
        return [
            Check(
                "no failed request",
                f"{tally.failed} of {tally.answered + tally.failed} failed {failures}",
                tally.failed == 0,
            ),
            Check(
                "accuracy equals the one computed in this process",
                f"{accuracy:.6f} and {expected:.6f}",
                abs(accuracy - expected) < 1e-12,
            ),
            Check("every killed container was replaced", f"{len(self._killed)} killed, {len(serving)} serve", replaced),
            Check("exactly the wanted number runs", f"{len(serving)} of {self._wanted}", len(serving) == self._wanted),
            Check(
                "the server's death touched no container",
                "all the same processes" if self._pids_kept else "processes changed",
                self._pids_kept,
            ),
            Check(
                "legal event order of every container",
                f"{len(histories)} containers, {len(illegal)} illegal",
                not illegal,
            ),
        ]

    def _histories(self) -> dict[str, list[str]]:
        histories: dict[str, list[str]] = {}
        for event in self._client.container_events(self._uuid):  # newest first
            histories.setdefault(event.container_uuid, []).insert(0, event.status)
        return histories

    async def _serving(self) -> list[Container]:
        containers = await asyncio.to_thread(self._client.containers_of, self._uuid)
        return [each for each in containers if each.status == "running" and each.is_ready]

    async def _pids(self) -> dict[str, int]:
        return {each.uuid: await self._pid(each) for each in await self._serving()}

    async def _pid(self, container: Container) -> int:
        """Return the process that answers for a container, asked past the balancer."""
        async with httpx.AsyncClient(verify=self._platform.trust(), trust_env=False) as client:
            answer = (await client.get(f"{container.url_6006}/healthz")).json()
        assert answer["container"] == container.uuid
        return await asyncio.to_thread(process_of, container.uuid)

    async def _quiet(self, tally: Tally) -> None:
        enough = tally.answered + QUIET_REQUESTS
        await self._until(lambda: tally.answered >= enough)

    async def _until(self, is_reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(SETTLE_SECONDS):
            while True:
                try:
                    if await asyncio.to_thread(is_reached):
                        return
                except MusterError:
                    pass  # the server is away, as the demo wants it
                await asyncio.sleep(_POLL_SECONDS)

    def _tell(self, event: Event) -> None:
        reason = f" ({event.reason})" if event.reason else ""
        if event.kind != "status" or event.status in ("creating", "running", "shutting_down", "shutdown"):
            word = event.status if event.kind == "status" else event.kind
            self._show.moment(f"{event.container_uuid[-10:]} {word}{reason}")


def _is_legal(words: list[str]) -> bool:
    """Each state at most once and in order, none skipped on the way up, a stop only at the end."""
    order = [status.value for status in ContainerStatus]
    ranks = [order.index(word) for word in words]
    up = [rank for rank in ranks if rank <= order.index("running")]
    return ranks == sorted(set(ranks)) and up == list(range(len(up)))


async def main(engine: Target) -> bool:
    """Run the demo; nothing is left behind, however it ends."""
    show = Show()
    show.step(f'muster up --engine {engine.engine} --fake-gpus "{FLEET}", in a home of its own')
    async with Sandbox(engine) as platform:
        show.moment(f"ready, in {platform.home}")
        is_kept = await Demo(platform, engine, show).run()
        show.step("clean up")
    left = platform.leftovers()
    show.step(f"left behind: {left or 'nothing'}")
    if is_kept:
        show.step("next: a platform of your own, see “By hand” in README.md")
    return is_kept and not left


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("local", "docker"), default="local")
    try:
        sys.exit(0 if asyncio.run(main(target(parser.parse_args().engine))) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
