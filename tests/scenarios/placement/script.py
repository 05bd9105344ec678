"""Runs a placement scenario: a script of machines and requests in, the printed decisions out.

A script holds one statement per line; ``#`` starts a comment, values with a space are quoted::

    machine a1 model="RTX 4090" gpus=8 center=lab-a cpu=16 memory=64 cuda=12.8 price=1980 taken=0,1
    request c1 times=3 gpus=2 models="RTX 4090,L20" centers=lab-a cuda=12.2.. cpu=..64 memory=32..64 price=..2000
    request c2 avoid=a1 blacklist=a2
    pooled p1 machine=a1 gpu=0,1 deployment=asr stopped=12:30 failed=yes
    request c3 deployment=asr reuse=p1,p2 gpus=2
    image whisper on=a1,a2
    request c4 image=whisper
    broken a1,a2             their engines cannot be used from then on; ``broken -``: all can
    place                    decides on the requests since the last one; what it gives is taken from then on
    fits gpus=2              how many such containers fit now
    stock models="RTX 4090"  idle and total GPUs by model
    remedies gpus=8          what one change would make such a request fit, and on how many machines

CPU and memory (GiB) of a machine are per GPU, those of a request are of the container. Everything but the name may be
left out; ``reuse=all`` offers everything in the pool, and an image that nobody holds is named without a statement. What
was reused has left the pool. Run this file to write every ``.out`` anew; review the difference like code.
"""

import datetime
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from muster.model.deployment import Requirements
from muster.model.ids import ContainerId, ContainerUuid, MachineId
from muster.model.machine import Machine
from muster.model.quantity import ANY, GIB, Range
from muster.scheduler.filters import Demand
from muster.scheduler.inventory import Inventory
from muster.scheduler.place import Placed, Request, Unplaceable, place
from muster.scheduler.remedy import remedies
from muster.scheduler.reuse import Reusable
from muster.scheduler.stock import fits, stock

FOLDER = Path(__file__).parent
REGENERATE = "python -m tests.scenarios.placement.script"
DAY = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Script:
    """The world of one scenario as far as it has been read."""

    def __init__(self) -> None:
        self._machines: list[Machine] = []
        self._claims: dict[MachineId, frozenset[int]] = {}
        self._waiting: list[Request] = []
        self._pool: dict[ContainerUuid, Reusable] = {}
        self._deployment_of: dict[ContainerUuid, str] = {}
        self._image_holders: dict[str, frozenset[MachineId]] = {}
        self._broken: frozenset[MachineId] = frozenset()

    def run(self, text: str) -> str:
        """Execute a whole script and return what it prints, one line per decision."""
        printed: list[str] = []
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if words:
                printed.extend(self._execute(words[0], words[1:]))
        return "".join(f"{line}\n" for line in printed)

    def _execute(self, verb: str, words: Sequence[str]) -> list[str]:
        names = [word for word in words if "=" not in word]
        values = dict(word.split("=", 1) for word in words if "=" in word)
        statements: dict[str, Callable[[], list[str]]] = {
            "machine": lambda: self._machine(names[0], values),
            "request": lambda: self._request(names[0], values),
            "pooled": lambda: self._pooled(ContainerUuid(names[0]), values),
            "image": lambda: self._image(names[0], values),
            "broken": lambda: self._break(names[0]),
            "place": self._place,
            "fits": lambda: [f"{fits(self._inventory(), _requirements(values), unavailable=self._broken)} fit"],
            "remedies": lambda: self._remedies(values),
            "stock": lambda: [
                f"{each.gpu_name}: {each.idle_gpu_num} of {each.total_gpu_num} idle"
                for each in stock(self._inventory(), _requirements(values), unavailable=self._broken)
            ],
        }
        return statements[verb]()

    def _remedies(self, values: dict[str, str]) -> list[str]:
        inventory = self._inventory()
        banned = frozenset(map(MachineId, _names(values, "blacklist")))
        demand = Demand(_requirements(values), banned, self._broken)
        free_num = {machine_id: len(free) for machine_id, free in inventory.free.items()}
        found = remedies(demand, inventory.machines, free_num)
        return [
            f"{each.rule}: {each.would_fit} instead of {each.wanted} ({each.machine_num} would do)" for each in found
        ] or ["nothing to offer"]

    def _machine(self, name: str, values: dict[str, str]) -> list[str]:
        gpu_num = int(values.get("gpus", "8"))
        machine = Machine(
            id=MachineId(name),
            data_center=values.get("center", "lab-a"),
            gpu_name=values.get("model", "RTX 4090"),
            gpu_num=gpu_num,
            cpu_num=int(values.get("cpu", "16")) * gpu_num,
            memory_bytes=int(values.get("memory", "64")) * GIB * gpu_num,
            cuda=_cuda(values.get("cuda", "12.8")),
            price_milliyuan=int(values.get("price", "1980")),
        )
        self._machines.append(machine)
        self._claims[machine.id] = frozenset(_indices(values, "taken"))
        return []

    def _pooled(self, uuid: ContainerUuid, values: dict[str, str]) -> list[str]:
        hours, minutes = map(int, values.get("stopped", "12:00").split(":"))
        self._deployment_of[uuid] = values.get("deployment", "asr")
        self._pool[uuid] = Reusable(
            uuid=uuid,
            machine_id=MachineId(values["machine"]),
            gpu_indices=_indices(values, "gpu"),
            is_same_deployment=False,
            ended_well=values.get("failed") != "yes",
            stopped_at=DAY + datetime.timedelta(hours=hours, minutes=minutes),
        )
        return []

    def _image(self, name: str, values: dict[str, str]) -> list[str]:
        self._image_holders[name] = frozenset(map(MachineId, _names(values, "on")))
        return []

    def _break(self, names: str) -> list[str]:
        self._broken = frozenset(map(MachineId, names.split(","))) - {MachineId("-")}
        return []

    def _request(self, name: str, values: dict[str, str]) -> list[str]:
        times = int(values.get("times", "1"))
        for number in range(1, times + 1):
            self._waiting.append(
                Request(
                    ContainerId(name if times == 1 else f"{name}.{number}"),
                    _requirements(values),
                    avoid=frozenset(map(MachineId, _names(values, "avoid"))),
                    blacklist=frozenset(map(MachineId, _names(values, "blacklist"))),
                    reusable=self._reusable(values),
                    image_holders=(
                        self._image_holders.get(values["image"], frozenset()) if "image" in values else None
                    ),
                )
            )
        return []

    def _reusable(self, values: dict[str, str]) -> tuple[Reusable, ...]:
        uuids = list(self._pool) if values.get("reuse") == "all" else map(ContainerUuid, _names(values, "reuse"))
        deployment = values.get("deployment", "asr")
        return tuple(
            replace(self._pool[uuid], is_same_deployment=self._deployment_of[uuid] == deployment) for uuid in uuids
        )

    def _place(self) -> list[str]:
        printed = []
        requests = [replace(each, unavailable=self._broken) for each in self._waiting]
        for request, outcome in zip(requests, place(requests, self._inventory()).outcomes, strict=True):
            printed.append(f"{request.container_id}: {_show(outcome)}")
            if isinstance(outcome, Placed):
                self._claims[outcome.placement.machine_id] |= frozenset(outcome.placement.gpu_indices)
                if outcome.reuses is not None:
                    del self._pool[outcome.reuses]
        self._waiting.clear()
        return printed

    def _inventory(self) -> Inventory:
        wanted_by_pool: dict[MachineId, frozenset[int]] = {}
        for each in self._pool.values():
            wanted_by_pool[each.machine_id] = wanted_by_pool.get(each.machine_id, frozenset()) | {*each.gpu_indices}
        return Inventory.of(self._machines, self._claims, wanted_by_pool)


def _requirements(values: dict[str, str]) -> Requirements:
    return Requirements(
        gpu_num=int(values.get("gpus", "1")),
        gpu_names=frozenset(_names(values, "models")),
        data_centers=frozenset(_names(values, "centers")),
        cuda=_range(values.get("cuda"), _cuda),
        cpu_num=_range(values.get("cpu"), int),
        memory_bytes=_range(values.get("memory"), lambda gib: int(gib) * GIB),
        price_milliyuan=_range(values.get("price"), int),
    )


def _names(values: dict[str, str], key: str) -> list[str]:
    return [name for name in values.get(key, "").split(",") if name]


def _indices(values: dict[str, str], key: str) -> tuple[int, ...]:
    return tuple(map(int, _names(values, key)))


def _range(text: str | None, read: Callable[[str], int]) -> Range:
    if text is None:
        return ANY
    if ".." not in text:
        return Range.exactly(read(text))
    lower, upper = text.split("..")
    return Range(read(lower) if lower else 0, read(upper) if upper else None)


def _cuda(text: str) -> int:
    return int(text.replace(".", ""))


def _show(outcome: Placed | Unplaceable) -> str:
    if isinstance(outcome, Unplaceable):
        return outcome.explanation.sentence()
    placement = outcome.placement
    indices = ",".join(map(str, placement.gpu_indices))
    given = f"{placement.gpu_name}, {placement.cpu_num} CPUs, {placement.memory_bytes // GIB} GiB"
    return f"{placement.machine_id} GPU {indices} ({given}): {outcome.sentence()}"


if __name__ == "__main__":
    for scenario in sorted(FOLDER.glob("*.txt")):
        scenario.with_suffix(".out").write_text(Script().run(scenario.read_text()))
