"""The workers of a gateway as their parent sees them: started, heard, told things, started again, ended.

A worker that dies is started again after 0.2 s, doubling to 5 s while it keeps dying young; what it had under way is
taken off the ledger, and what it had counted is kept. One that cannot start as told, before any was ever ready, ends
the gateway with its message. Its sockets are the parent's too, so clients that are queued there wait for its next life.

A worker that is ready tells its figures each second. One that says nothing for ``SILENT_SECONDS`` is stuck, while
clients go on coming to its sockets: it is killed, and started again.

Workers are of sessions of their own, so that a terminal's Ctrl-C reaches only the parent. They notice the parent's
death by the end of their channel.
"""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from muster.balancer.statistics_json import service_of
from muster.errors import SetupError
from muster.gateway.ledger import Ledger
from muster.gateway.merging import Totals
from muster.gateway.metrics import Sums
from muster.processes.child import EXIT_SETUP
from muster.processes.gateway_channel import Channel, Message

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 10.0
"""A worker that lived this long did not die young."""
GRACE_SECONDS = 5.0
"""Beyond what requests may take to end, before a worker that does not end is killed."""
CUT_SECONDS = 2.0
SILENT_SECONDS = 15.0
"""Far longer than anything that a worker does in one go, also on a host that is short of CPU."""
_LISTEN_SECONDS = 1.0
_LOOK_SECONDS = 0.05
_SECRET = "MUSTER_TOKEN"  # noqa: S105 a name

_log = logging.getLogger(__name__)


class _Child:
    """One worker, whichever process it is now."""

    def __init__(self, at: int, sockets: Sequence[socket.socket]) -> None:
        self.at = at
        self.descriptors = [each.fileno() for each in sockets]
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: Channel | None = None
        self.is_ready = False
        self.heard_at = 0.0
        self.error = ""
        self.answer: asyncio.Future[str] | None = None
        """What it says of a configuration that it was told."""


class Children:
    """All workers. ``begin`` says what each is told once it has started, beside its place."""

    def __init__(
        self, sockets: Sequence[Sequence[socket.socket]], ledger: Ledger, begin: Callable[[], Message]
    ) -> None:
        self.sums = Sums()
        self.totals = Totals()
        self.all_ready = asyncio.Event()
        """Since all of them were, for the first time."""
        self._children = [_Child(at, own) for at, own in enumerate(sockets)]
        self._ledger = ledger
        self._begin = begin
        self._is_ending = asyncio.Event()
        self._ending: Mapping[str, Any] = {}

    @property
    def count(self) -> int:
        """How many there are to be."""
        return len(self._children)

    @property
    def ready(self) -> int:
        """How many accept connections now."""
        return sum(each.is_ready for each in self._children)

    async def run(self, slots: Callable[[], Sequence[int]]) -> None:
        """Keep them alive until they are to end; ``slots`` are those of the ledger that are in use."""
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self._listen(), name="silence")
            async with asyncio.TaskGroup() as lives:
                for child in self._children:
                    lives.create_task(self._keep(child, slots), name=f"worker {child.at}")
            listening.cancel()

    def tell(self, kind: str, **content: Any) -> None:
        """Say something to all of them."""
        for each in self._children:
            if each.channel is not None:
                each.channel.send(kind, **content)

    async def configure(self, seconds: float, **content: Any) -> list[str]:
        """Have all of them take a configuration over; return what went wrong with whom."""
        asked: dict[int, asyncio.Future[str]] = {}
        for each in self._children:
            if each.channel is not None:  # one that is starting was told the old one, and hears this next
                each.answer = asked[each.at] = asyncio.get_running_loop().create_future()
                each.channel.send("configure", **content)
        if asked:
            await asyncio.wait(asked.values(), timeout=seconds)
        said = {at: answer.result() if answer.done() else "it does not answer" for at, answer in asked.items()}
        return [f"worker {at}: {error}" for at, error in said.items() if error]

    def leave(self, seconds: float) -> None:
        """Have all of them end, when what is under way is over or so many seconds have passed."""
        self._ending = {"seconds": seconds}
        self._is_ending.set()
        self.tell("leave", seconds=seconds)

    async def gone(self, running: "asyncio.Task[None]", seconds: float, is_cut: asyncio.Event) -> None:
        """Wait until all have ended, and kill those that do not."""
        loop = asyncio.get_running_loop()
        deadline, was_cut = loop.time() + seconds + GRACE_SECONDS, False
        while not running.done():
            if is_cut.is_set() and not was_cut:
                was_cut = True
                self.tell("cut")
                deadline = min(deadline, loop.time() + CUT_SECONDS)
            if loop.time() >= deadline:
                for each in self._children:
                    _kill(each)
            await asyncio.wait([running], timeout=_LOOK_SECONDS)

    async def _listen(self) -> None:
        """Kill who is stuck."""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            await asyncio.sleep(_LISTEN_SECONDS)
            now = loop.time()
            was_away = now - begun > 2 * _LISTEN_SECONDS  # then what they said has not been read yet
            for each in self._children:
                if was_away:
                    each.heard_at = now
                elif each.is_ready and now - each.heard_at > SILENT_SECONDS:
                    each.error = f"it was stuck: it said nothing for {SILENT_SECONDS:g} s, and was killed"
                    _kill(each)

    # The life of one.

    async def _keep(self, child: _Child, slots: Callable[[], Sequence[int]]) -> None:
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE_SECONDS
        while not self._is_ending.is_set():
            begun = loop.time()
            code = await self._live(child)
            self._ledger.forget(child.at, slots())
            self.sums.ended(child.at)
            self.totals.ended(child.at)
            if self._is_ending.is_set():
                return
            if code == EXIT_SETUP and not self.all_ready.is_set():
                raise SetupError(child.error)
            if loop.time() - begun >= STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self.sums.restarts += 1
            why = f" ({child.error})" if child.error else ""
            _log.warning("worker %d ended with %d%s; starting it again in %.1f s", child.at, code, why, pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._is_ending.wait()
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    async def _live(self, child: _Child) -> int:
        """Start a process and hear it to its end; return its exit code."""
        process, end = _start([*child.descriptors, self._ledger.descriptor])
        child.process, child.error = process, ""
        channel = child.channel = await Channel.open(end)
        try:
            channel.send(
                "begin",
                **self._begin(),
                listeners=child.descriptors,
                ledger=self._ledger.descriptor,
                columns=self.count,
                column=child.at,
            )
            if self._is_ending.is_set():
                channel.send("leave", **self._ending)
            async for message in channel:
                self._hear(child, message)
            return await _end_of(process)
        finally:
            _kill(child)  # when this is cancelled; else it has ended
            process.wait()
            child.is_ready, child.channel, child.process = False, None, None
            if child.answer is not None and not child.answer.done():
                child.answer.set_result("")  # its next life is told by ``begin``
            await channel.aclose()

    def _hear(self, child: _Child, message: Message) -> None:
        child.heard_at = asyncio.get_running_loop().time()
        match message["kind"]:
            case "ready":
                child.is_ready = True
                if self.ready == self.count:
                    self.all_ready.set()
            case "figures":
                self.sums.take(child.at, message["counters"])
                if message["services"] is not None:
                    self.totals.take(child.at, [service_of(each) for each in message["services"]])
            case "configured":
                if child.answer is not None and not child.answer.done():
                    child.answer.set_result(message["error"])
            case "failed":
                child.error = message["error"]


def _start(descriptors: Sequence[int]) -> tuple["subprocess.Popen[bytes]", socket.socket]:
    """Start a worker; return it, and our end of its channel."""
    ours, theirs = socket.socketpair()
    with theirs:
        environ = {name: value for name, value in os.environ.items() if name != _SECRET}
        process = subprocess.Popen(
            # -P: a logging.py in the folder where somebody types this is not ours to import
            (sys.executable, "-P", "-m", "muster.processes.gateway_worker", str(theirs.fileno())),
            env=environ,
            stdin=subprocess.DEVNULL,
            pass_fds=(*descriptors, theirs.fileno()),
            start_new_session=True,
        )
    return process, ours


async def _end_of(process: "subprocess.Popen[bytes]") -> int:
    """Return the exit code of a process that has closed its channel, and kill one that goes on without it."""
    deadline = asyncio.get_running_loop().time() + GRACE_SECONDS
    while (code := process.poll()) is None:
        if asyncio.get_running_loop().time() >= deadline:
            process.kill()
        await asyncio.sleep(_LOOK_SECONDS / 5)
    return code


def _kill(child: _Child) -> None:
    if child.process is not None and child.process.poll() is None:
        child.process.kill()
