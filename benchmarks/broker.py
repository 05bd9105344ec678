"""What a choice by a broker costs: asks a second of one core, and what an ask adds at 1,000 of them a second.

The broker is a process of its own (``muster broker``), its clients are connections of this one that speak the protocol
and send nothing to anybody: ask, be granted, start, report. A core's worth is told by the broker's own processor time,
since the clients need as much again and the machine may have few cores.
"""

import asyncio
import contextlib
import datetime
import random
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.table import Table

from benchmarks.table import add_latency, console, latency_table, machine, plain_table, show
from muster.balancer.ask import NOTHING_SAID, Ask
from muster.balancer.lease import Outcome
from muster.broker import messages
from muster.broker.address import Address, read_address
from muster.broker.frames import FrameReader, frame
from muster.broker.messages import Hello, Message, Wanted
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from muster.registry import connect

MUSTER = Path(sys.executable).with_name("muster")
KEY = ServiceKey("admin", "0123456789")
TOKEN = "benchmark"
CONNECTIONS = 16
IN_FLIGHT = 4
"""Per connection."""
REPLICAS, CONCURRENCY = 32, 4
MEASURED_SECONDS, WARM_SECONDS = 4.0, 1.5
ASKS_PER_SECOND = 1000
TARGET_PER_CORE, TARGET_MILLISECONDS = 5000, 1.0
PATIENCE_SECONDS = 20.0

Features = Callable[[random.Random], Ask]


class Asker(asyncio.Protocol):
    """One connection: asks, and ends each lease as soon as it is given."""

    def __init__(self, say: Features, rng: random.Random) -> None:
        self._say = say
        self._rng = rng
        self._reader = FrameReader()
        self._transport: asyncio.WriteTransport | None = None
        self._asked_at: dict[int, float] = {}
        self._next = 0
        self.ready = asyncio.get_running_loop().create_future()
        self.is_closed_loop = False
        self.waits: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce oneself."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._write(frame(messages.hello(Hello(KEY, TOKEN, "benchmark"))))

    def data_received(self, data: bytes) -> None:
        """Take grants."""
        said = b"".join(map(self._answer, self._reader.feed(data)))
        if said:
            self._write(said)

    def ask(self) -> None:
        """Ask for a slot."""
        self._write(self._asking())

    def beat(self) -> None:
        """Say that one lives."""
        self._write(frame(messages.beat(())))

    def _answer(self, message: Message) -> bytes:
        if message["type"] == "grant":
            number = message["id"]
            self.waits.append(time.perf_counter() - self._asked_at.pop(number))
            ended = frame(messages.start(number)) + frame(messages.report(number, Outcome.OK))
            return ended + self._asking() if self.is_closed_loop else ended
        if message["type"] == "welcome":
            self.ready.set_result(None)
        elif message["type"] != "heartbeat":
            raise RuntimeError(f"the broker said {message}")
        return b""

    def _asking(self) -> bytes:
        self._next += 1
        self._asked_at[self._next] = time.perf_counter()
        return frame(messages.ask(Wanted(self._next, self._say(self._rng), 30.0), 0.0))

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def close(self) -> None:
        """Hang up."""
        assert self._transport is not None
        self._transport.abort()


@dataclass(frozen=True)
class Ground:
    """A broker's process, and how to reach it."""

    address: Address
    process: psutil.Process
    tls: ssl.SSLContext | None

    @property
    def cpu_seconds(self) -> float:
        """The processor time that it has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    @contextlib.asynccontextmanager
    async def askers(self, say: Features) -> AsyncIterator[Sequence[Asker]]:
        """Connect, and say that one lives until the end."""
        loop = asyncio.get_running_loop()
        found = []
        for number in range(CONNECTIONS):
            _, asker = await loop.create_connection(
                lambda number=number: Asker(say, random.Random(number)),
                self.address.host,
                self.address.port,
                ssl=self.tls,
            )
            found.append(asker)
        await asyncio.gather(*(asker.ready for asker in found))

        async def live() -> None:
            while True:
                for asker in found:
                    asker.beat()
                await asyncio.sleep(0.5)

        living = asyncio.create_task(live())
        try:
            yield found
        finally:
            living.cancel()
            for asker in found:
                asker.close()


@contextlib.contextmanager
def broker(*, is_secure: bool, replicas: int) -> Iterator[Ground]:
    """Run one for a service of so many replicas."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        registry = f"file://{folder}/registry"
        asyncio.run(_publish(registry, replicas))
        (folder / "token").write_text(TOKEN)
        listen = f"{'tls' if is_secure else 'tcp'}://127.0.0.1:0"
        command = [str(MUSTER), "broker", "--registry", registry, "--listen", listen, "--token-file", f"{folder}/token"]
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen(
                [*command, "--home", f"{folder}/home"], stdout=subprocess.PIPE, stderr=log, text=True
            ) as process,
        ):
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                if "serves at " not in line:
                    raise RuntimeError(f"muster broker did not start: {(folder / 'log').read_text()}")
                address = read_address(line.partition("serves at ")[2].partition(" ")[0])
                trust = folder / "home" / "tls" / "ca.pem"
                tls = ssl.create_default_context(cafile=trust) if is_secure else None
                yield Ground(address, psutil.Process(process.pid), tls)
            finally:
                process.terminate()
                process.wait(PATIENCE_SECONDS)


async def _publish(url: str, replicas: int) -> None:
    registry = connect(url)
    endpoints = tuple(
        Endpoint(f"{number:03}", f"http://10.0.0.{number}:20000", gpu_name="RTX 4090", concurrency=CONCURRENCY)
        for number in range(replicas)
    )
    await registry.publish(KEY, EndpointSet(1, 1, endpoints, datetime.datetime.now(datetime.UTC)))
    await registry.aclose()


def nothing_said(_: random.Random) -> Ask:
    """Ask without a word."""
    return NOTHING_SAID


def with_features(rng: random.Random) -> Ask:
    """Ask as an image service's client would."""
    return Ask(features={"pixels": float(rng.choice((512, 1024)) ** 2), "steps": float(rng.randrange(10, 50))})


async def flat_out(ground: Ground, say: Features) -> tuple[float, float]:
    """Return asks a second of the wall clock, and of the broker's processor time."""
    async with ground.askers(say) as askers:
        for asker in askers:
            asker.is_closed_loop = True
            for _ in range(IN_FLIGHT):
                asker.ask()
        await asyncio.sleep(WARM_SECONDS)
        began, cpu, asked = time.perf_counter(), ground.cpu_seconds, sum(len(asker.waits) for asker in askers)
        await asyncio.sleep(MEASURED_SECONDS)
        asked = sum(len(asker.waits) for asker in askers) - asked
        return asked / (time.perf_counter() - began), asked / (ground.cpu_seconds - cpu)


async def paced(ground: Ground, say: Features) -> tuple[list[float], float]:
    """Return how long asks waited for their grants while a thousand came each second, at random, and what a core does.

    Each comes alone then, and nothing is read or written for several at once.
    """
    rng = random.Random(7)
    async with ground.askers(say) as askers:
        await asyncio.sleep(WARM_SECONDS)
        began, cpu = time.perf_counter(), ground.cpu_seconds
        due = began
        while due - began < MEASURED_SECONDS:
            due += rng.expovariate(ASKS_PER_SECOND)
            if due > time.perf_counter() + 0.0005:
                await asyncio.sleep(due - time.perf_counter())
            rng.choice(askers).ask()
        await asyncio.sleep(0.2)
        waits = [wait for asker in askers for wait in asker.waits]
        return waits, len(waits) / (ground.cpu_seconds - cpu)


def run() -> list[Table]:
    """Measure."""
    table = plain_table(
        f"broker: asks a second, {CONNECTIONS} connections with {IN_FLIGHT} in flight each",
        ["what", "asks/s, wall", "asks/s per core of the broker", "target"],
        "each is ask, grant, start and report; the wall clock is shared with the clients",
    )
    waits = latency_table(f"broker: ask → grant at {ASKS_PER_SECOND} asks/s", "seen by the client, on loopback")
    rows: list[tuple[str, bool, int, Features]] = [
        ("a slot is free", False, REPLICAS, nothing_said),
        ("a slot is free, TLS", True, REPLICAS, nothing_said),
        ("a slot is free, features, TLS", True, REPLICAS, with_features),
        ("all wait for a slot, TLS", True, REPLICAS // 4, nothing_said),
    ]
    for what, is_secure, replicas, say in rows:
        with broker(is_secure=is_secure, replicas=replicas) as ground:
            wall, per_core = asyncio.run(flat_out(ground, say))
            target = f"≥ {TARGET_PER_CORE:,}"
            table.add_row(what, f"{wall:,.0f}", f"{per_core:,.0f}", target)
            if replicas == REPLICAS:
                waited, per_core = asyncio.run(paced(ground, say))
                table.add_row(f"… one at a time, {ASKS_PER_SECOND:,} a second", "", f"{per_core:,.0f}", target)
                add_latency(waits, what, waited, f"p50 < {TARGET_MILLISECONDS:g} ms")
    return [table, waits]


if __name__ == "__main__":
    out = console()
    out.print(machine(), highlight=False)
    for each in run():
        show(out, each)
