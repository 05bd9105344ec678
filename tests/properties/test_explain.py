"""Explanations against a brute-force oracle, on a thousand random inventories."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.model.deployment import Requirements
from muster.model.ids import ContainerId, MachineId
from muster.model.machine import Machine
from muster.model.quantity import GIB, Range
from muster.scheduler.explain import Explanation
from muster.scheduler.filters import Demand
from muster.scheduler.inventory import Inventory
from muster.scheduler.place import Request, Unplaceable, place
from muster.scheduler.remedy import Remedy, remedies
from tests.properties.test_place import CENTERS, MACHINE_IDS, MODELS, inventories, requirements, subsets

EVERY_RULE = [
    "gpu_name",
    "gpu_num",
    "data_center",
    "cuda",
    "cpu_num",
    "memory",
    "price",
    "image",
    "blacklist",
    "cordoned",
    "engine",
    "free_gpus",
]
FIELDS = ("gpu_names", "data_centers", "cuda", "cpu_num", "memory_bytes", "price_milliyuan")
NOWHERE: frozenset[MachineId] = frozenset()
BANS = st.sampled_from([True, False, False, False]).flatmap(
    lambda any_ban: subsets(MACHINE_IDS, 2) if any_ban else st.just(NOWHERE)
)


@dataclass(frozen=True)
class Case:
    request: Request
    inventory: Inventory

    def against(self, machine: Machine, wish: Requirements | None = None) -> list[str]:
        """Say without the table of rules what rejects a machine, in the order of the rules."""
        request = self.request
        wish = wish or request.requirements
        number = wish.gpu_num
        only_on = request.image_holders if request.is_image_saved else None
        return [
            name
            for name, is_met in zip(
                EVERY_RULE,
                (
                    not wish.gpu_names or machine.gpu_name in wish.gpu_names,
                    machine.gpu_num >= number,
                    not wish.data_centers or machine.data_center in wish.data_centers,
                    machine.cuda in wish.cuda,
                    machine.cpu_num // machine.gpu_num * number in wish.cpu_num,
                    machine.memory_bytes // machine.gpu_num * number in wish.memory_bytes,
                    machine.price_milliyuan in wish.price_milliyuan,
                    only_on is None or machine.id in only_on,
                    machine.id not in request.blacklist,
                    machine.id not in request.cordoned,
                    machine.id not in request.unavailable,
                    len(self.inventory.free[machine.id]) >= number,
                ),
                strict=True,
            )
            if not is_met
        ]

    def fitting(self, wish: Requirements) -> int:
        return sum(not self.against(machine, wish) for machine in self.inventory.machines)


def wishes() -> st.SearchStrategy[Requirements]:
    """Draw requests that ask for few things at once: those that one change may help."""
    return st.builds(_keeping, requirements(), subsets(FIELDS, 3))


def _keeping(wish: Requirements, fields: frozenset[str]) -> Requirements:
    return replace(wish, **{name: getattr(Requirements(), name) for name in FIELDS if name not in fields})


def cases() -> st.SearchStrategy[Case]:
    requests = st.builds(
        Request,
        st.just(ContainerId("c")),
        wishes() | requirements(),
        blacklist=BANS,
        unavailable=BANS,
        cordoned=BANS,
        image_holders=st.none() | subsets(MACHINE_IDS, 3),
        is_image_saved=st.sampled_from([False, False, True]),
    )
    return st.builds(Case, requests, inventories())


def explanation(case: Case) -> Explanation | None:
    (outcome,) = place([case.request], case.inventory).outcomes
    return outcome.explanation if isinstance(outcome, Unplaceable) else None


def offered(case: Case) -> tuple[Remedy, ...]:
    free_num = {machine_id: len(free) for machine_id, free in case.inventory.free.items()}
    request = case.request
    only_on = request.image_holders if request.is_image_saved else None
    demand = Demand(request.requirements, request.blacklist, request.unavailable, only_on, request.cordoned)
    return remedies(demand, case.inventory.machines, free_num)


@pytest.mark.slow
@settings(max_examples=1000)
@given(cases())
def test_counts_add_up_and_the_nearest_miss_is_the_nearest(case: Case) -> None:
    found = explanation(case)
    against = {machine.id: case.against(machine) for machine in case.inventory.machines}
    assert (found is None) == any(not rules for rules in against.values())
    if found is None:
        return
    first = [rules[0] for rules in against.values()]
    assert found.considered == len(against) == sum(count for _, count in found.rejected)
    assert found.rejected == tuple((name, first.count(name)) for name in EVERY_RULE if name in first)
    if not against:
        assert found.nearest is None
        return
    nearest = min(
        against,
        key=lambda machine_id: (
            len(against[machine_id]),
            -EVERY_RULE.index(against[machine_id][0]),
            -len(case.inventory.free[machine_id]),
            machine_id,
        ),
    )
    assert found.nearest is not None
    assert found.nearest.machine_id == nearest
    assert [miss.rule for miss in found.nearest.misses] == against[nearest]


@pytest.mark.slow
@settings(max_examples=1000)
@given(cases())
def test_an_applied_remedy_makes_it_fit_where_it_says_and_is_the_smallest(case: Case) -> None:
    wish = case.request.requirements
    for remedy in offered(case):
        if remedy.demand is None:
            assert remedy.machine_id is not None
            alone = [machine.id for machine in case.inventory.machines if case.against(machine) == [remedy.rule]]
            assert remedy.machine_num == len(alone)
            assert remedy.machine_id in alone
            continue
        changed = replace(case.request, requirements=remedy.demand.requirements, blacklist=remedy.demand.blacklist)
        (outcome,) = place([changed], case.inventory).outcomes
        assert not isinstance(outcome, Unplaceable)
        after = Case(changed, case.inventory)
        assert after.fitting(changed.requirements) == remedy.machine_num
        assert remedy.wanted != remedy.would_fit
        if remedy.rule != "blacklist":
            assert changed.blacklist == case.request.blacklist
            size = distance(wish, changed.requirements)
            assert size == min(
                distance(wish, each) for each in changes(case, remedy.rule, remedy.bound) if case.fitting(each)
            )


@pytest.mark.slow
@settings(max_examples=1000)
@given(cases())
def test_a_remedy_is_offered_exactly_when_one_exists(case: Case) -> None:
    found = {(remedy.rule, remedy.bound) for remedy in offered(case)}
    assert len(found) == len(offered(case))
    if any(not case.against(machine) for machine in case.inventory.machines):
        assert not found, "it fits as it is"
        return
    expected = {
        (rule, bound)
        for rule, bound in chain(
            ((rule, "") for rule in ("gpu_name", "gpu_num", "data_center")),
            ((rule, bound) for rule in ("cuda", "cpu_num", "memory", "price") for bound in ("lower", "upper")),
        )
        if any(case.fitting(each) for each in changes(case, rule, bound))
    }
    alone = [case.against(machine) for machine in case.inventory.machines]
    expected |= {(rule, "") for rule in ("blacklist", "cordoned", "engine", "free_gpus") if [rule] in alone}
    assert found == expected


def changes(case: Case, rule: str, bound: str) -> Iterator[Requirements]:
    """Try everything that one field could say instead."""
    wish = case.request.requirements
    match rule:
        case "gpu_name":
            yield from (replace(wish, gpu_names=wish.gpu_names | {name}) for name in MODELS if wish.gpu_names)
        case "data_center":
            yield from (replace(wish, data_centers=wish.data_centers | {name}) for name in CENTERS if wish.data_centers)
        case "gpu_num":
            yield from (replace(wish, gpu_num=number) for number in range(1, 12) if number != wish.gpu_num)
        case "cuda":
            yield from (replace(wish, cuda=each) for each in widened(wish.cuda, bound, range(130)))
        case "cpu_num":
            yield from (replace(wish, cpu_num=each) for each in widened(wish.cpu_num, bound, range(40)))
        case "memory":
            sizes = range(0, 20 * GIB, GIB)
            yield from (replace(wish, memory_bytes=each) for each in widened(wish.memory_bytes, bound, sizes))
        case _:
            prices = sorted({machine.price_milliyuan for machine in case.inventory.machines} | {0})
            yield from (replace(wish, price_milliyuan=each) for each in widened(wish.price_milliyuan, bound, prices))


def widened(asked: Range, bound: str, values: "range | list[int]") -> Iterator[Range]:
    if bound == "lower":
        yield from (Range(value, asked.upper) for value in values if value < asked.lower)
    elif asked.upper is not None:
        yield from (Range(asked.lower, value) for value in values if value > asked.upper)


def distance(before: Requirements, after: Requirements) -> int:
    """Say how much a request was changed; names count as one each."""
    ranges = (
        (before.cuda, after.cuda),
        (before.cpu_num, after.cpu_num),
        (before.memory_bytes, after.memory_bytes),
        (before.price_milliyuan, after.price_milliyuan),
    )
    return (
        abs(before.gpu_num - after.gpu_num)
        + len(before.gpu_names ^ after.gpu_names)
        + len(before.data_centers ^ after.data_centers)
        + sum(old.lower - new.lower + (new.upper or 0) - (old.upper or 0) for old, new in ranges)
    )


def test_a_machine_that_fits_needs_no_remedy() -> None:
    machine = Machine(MachineId("m"), "lab-a", "L20", 2, 8, 8 * GIB, 128, 1000)
    case = Case(Request(ContainerId("c"), Requirements()), Inventory.of([machine], {}))
    assert offered(case) == ()
