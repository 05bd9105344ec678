"""Runs a placement scenario: a script of machines and requests in, the printed decisions out.

A script holds one statement per line; ``#`` starts a comment, values with a space are quoted::

    machine a1 model="RTX 4090" gpus=8 center=lab-a cpu=16 memory=64 cuda=12.8 price=1980 taken=0,1
    request c1 times=3 gpus=2 models="RTX 4090,L20" centers=lab-a cuda=12.2.. cpu=..64 memory=32..64 price=..2000
    request c2 avoid=a1 blacklist=a2
    place                    decides on the requests since the last one; what it gives is taken from then on
    fits gpus=2              how many such containers fit now
    stock models="RTX 4090"  idle and total GPUs by model

CPU and memory (GiB) of a machine are per GPU, those of a request are of the container. Everything but the name may be
left out. Run this file to write every ``.out`` anew; review the difference like code.
"""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from muster.model.container import Placement
from muster.model.deployment import Requirements
from muster.model.ids import ContainerId, MachineId
from muster.model.machine import Machine
from muster.model.quantity import ANY, GIB, Range
from muster.scheduler.inventory import Inventory
from muster.scheduler.place import Request, Unplaceable, place
from muster.scheduler.stock import fits, stock

FOLDER = Path(__file__).parent
REGENERATE = "python -m tests.scenarios.placement.script"


class Script:
    """The world of one scenario as far as it has been read."""

    def __init__(self) -> None:
        self._machines: list[Machine] = []
        self._claims: dict[MachineId, frozenset[int]] = {}
        self._waiting: list[Request] = []

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
            "place": self._place,
            "fits": lambda: [f"{fits(self._inventory(), _requirements(values))} fit"],
            "stock": lambda: [
                f"{each.gpu_name}: {each.idle_gpu_num} of {each.total_gpu_num} idle"
                for each in stock(self._inventory(), _requirements(values))
            ],
        }
        return statements[verb]()

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
        self._claims[machine.id] = frozenset(int(index) for index in values.get("taken", "").split(",") if index)
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
                )
            )
        return []

    def _place(self) -> list[str]:
        printed = []
        for request, outcome in zip(self._waiting, place(self._waiting, self._inventory()).outcomes, strict=True):
            printed.append(f"{request.container_id}: {_show(outcome)}")
            if isinstance(outcome, Placement):
                self._claims[outcome.machine_id] |= frozenset(outcome.gpu_indices)
        self._waiting.clear()
        return printed

    def _inventory(self) -> Inventory:
        return Inventory.of(self._machines, self._claims)


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


def _range(text: str | None, read: Callable[[str], int]) -> Range:
    if text is None:
        return ANY
    if ".." not in text:
        return Range.exactly(read(text))
    lower, upper = text.split("..")
    return Range(read(lower) if lower else 0, read(upper) if upper else None)


def _cuda(text: str) -> int:
    return int(text.replace(".", ""))


def _show(outcome: Placement | Unplaceable) -> str:
    if isinstance(outcome, Unplaceable):
        return outcome.explanation.sentence()
    indices = ",".join(map(str, outcome.gpu_indices))
    memory = outcome.memory_bytes // GIB
    return f"{outcome.machine_id} GPU {indices} ({outcome.gpu_name}, {outcome.cpu_num} CPUs, {memory} GiB)"


if __name__ == "__main__":
    for scenario in sorted(FOLDER.glob("*.txt")):
        scenario.with_suffix(".out").write_text(Script().run(scenario.read_text()))
