"""Placement in safety sentences, on random clusters; and the fast version against the obvious one."""

from collections.abc import Mapping, Sequence
from itertools import combinations, combinations_with_replacement
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from muster.model.container import Placement
from muster.model.deployment import Requirements
from muster.model.ids import ContainerId, MachineId
from muster.model.machine import Machine
from muster.model.quantity import ANY, GIB, Range
from muster.scheduler import units
from muster.scheduler.filters import RULES, Demand
from muster.scheduler.inventory import Inventory
from muster.scheduler.place import Placements, Request, Unplaceable, place
from muster.scheduler.rank import Rank, rank
from muster.scheduler.stock import fits, stock

Item = TypeVar("Item")
MODELS = ("RTX 4090", "L20")
CENTERS = ("lab-a", "lab-b")
MACHINE_IDS = tuple(MachineId(f"{number:010x}") for number in range(6))


# Values are drawn whole from all that there can be, not put together draw by draw: examples are much cheaper so.


def subsets(values: Sequence[Item], at_most: int) -> st.SearchStrategy[frozenset[Item]]:
    return st.sampled_from([frozenset(each) for size in range(at_most + 1) for each in combinations(values, size)])


def ranges(values: Sequence[int]) -> st.SearchStrategy[Range]:
    closed = [Range(*pair) for pair in combinations_with_replacement(sorted(values), 2)]
    return st.sampled_from([ANY, *map(Range, values), *closed])


SHAPES = st.tuples(
    st.sampled_from(CENTERS),
    st.sampled_from(MODELS),
    st.integers(1, 4),  # GPUs
    st.integers(0, 5),  # CPUs for each
    st.integers(0, 1),  # CPUs that do not divide
    st.integers(0, 3),  # GiB for each
    st.sampled_from((0, 118, 128)),
    st.sampled_from((0, 1980, 2500)),
)


def machine(machine_id: MachineId, shape: tuple[str, str, int, int, int, int, int, int]) -> Machine:
    data_center, gpu_name, gpu_num, cpus, odd_cpus, gib, cuda, price = shape
    return Machine(
        id=machine_id,
        data_center=data_center,
        gpu_name=gpu_name,
        gpu_num=gpu_num,
        cpu_num=cpus * gpu_num + odd_cpus,
        memory_bytes=gib * gpu_num * GIB,
        cuda=cuda,
        price_milliyuan=price,
    )


def inventories() -> st.SearchStrategy[Inventory]:
    return st.builds(
        lambda shapes, claims: Inventory.of([machine(*each) for each in shapes.items()], claims),
        st.dictionaries(st.sampled_from(MACHINE_IDS), SHAPES),
        st.dictionaries(st.sampled_from(MACHINE_IDS), subsets(range(5), 5)),
    )


def requirements() -> st.SearchStrategy[Requirements]:
    return st.builds(
        Requirements,
        gpu_num=st.integers(1, 5),
        gpu_names=subsets((*MODELS, "H20"), 3),
        data_centers=subsets(CENTERS, 2),
        cuda=ranges((0, 118, 120, 128)),
        cpu_num=ranges((0, 2, 4, 8)),
        memory_bytes=ranges((0, GIB, 2 * GIB, 4 * GIB)),
        price_milliyuan=ranges((0, 1980, 2000, 2500)),
    )


SOME_MACHINES = subsets(MACHINE_IDS, 3)
FEW_MACHINES = subsets(MACHINE_IDS, 1)


@st.composite
def request_lists(draw: st.DrawFn) -> list[Request]:
    # Few distinct requirements and many requests for each, as deployments make them.
    wishes = draw(st.lists(requirements() | st.just(Requirements()), min_size=1, max_size=4))
    parts = draw(st.lists(st.tuples(st.sampled_from(wishes), SOME_MACHINES, FEW_MACHINES), max_size=16))
    return [
        Request(ContainerId(f"c{number}"), wish, avoid, blacklist)
        for number, (wish, avoid, blacklist) in enumerate(parts)
    ]


def meets(request: Request, machine: Machine) -> bool:
    """Say independently of the rules' table whether a machine suits a request when it is empty."""
    wish = request.requirements
    return (
        (not wish.gpu_names or machine.gpu_name in wish.gpu_names)
        and machine.gpu_num >= wish.gpu_num
        and (not wish.data_centers or machine.data_center in wish.data_centers)
        and machine.cuda in wish.cuda
        and machine.cpu_num // machine.gpu_num * wish.gpu_num in wish.cpu_num
        and machine.memory_bytes // machine.gpu_num * wish.gpu_num in wish.memory_bytes
        and machine.price_milliyuan in wish.price_milliyuan
        and machine.id not in request.blacklist
    )


def fitting(request: Request, inventory: Inventory) -> list[Machine]:
    wanted = request.requirements.gpu_num
    return [each for each in inventory.machines if meets(request, each) and len(inventory.free[each.id]) >= wanted]


def simple_place(requests: Sequence[Request], inventory: Inventory) -> list[Placement | None]:
    """Place as obviously as possible: look at every machine for every request."""
    outcomes: list[Placement | None] = []
    for request in requests:
        wanted = request.requirements.gpu_num

        def rank_of(
            each: Machine, request: Request = request, wanted: int = wanted, free: Inventory = inventory
        ) -> Rank:
            return rank(each, len(free.free[each.id]) - wanted, is_avoided=each.id in request.avoid)

        best = min(fitting(request, inventory), key=rank_of, default=None)
        if best is None:
            outcomes.append(None)
        else:
            outcomes.append(units.allot(best, inventory.free[best.id], wanted))
            inventory = inventory.claiming(best.id, inventory.free[best.id][:wanted])
    return outcomes


def after(result: Placements, inventory: Inventory) -> Inventory:
    for outcome in result.outcomes:
        if isinstance(outcome, Placement):
            inventory = inventory.claiming(outcome.machine_id, outcome.gpu_indices)
    return inventory


def by_id(inventory: Inventory) -> Mapping[MachineId, Machine]:
    return {machine.id: machine for machine in inventory.machines}


@given(request_lists(), inventories())
def test_the_fast_placement_is_the_simple_placement(requests: list[Request], inventory: Inventory) -> None:
    fast = [outcome if isinstance(outcome, Placement) else None for outcome in place(requests, inventory).outcomes]
    assert fast == simple_place(requests, inventory)


@given(request_lists(), inventories())
def test_placements_are_safe(requests: list[Request], inventory: Inventory) -> None:
    result = place(requests, inventory)
    assert len(result.outcomes) == len(requests)
    no_gpu_is_given_twice(result, inventory)
    for request, outcome in zip(requests, result.outcomes, strict=True):
        if isinstance(outcome, Placement):
            nothing_is_placed_against_its_requirements(request, outcome, inventory)
            an_avoided_machine_is_taken_only_when_no_other_fits(request, outcome, inventory)
            inventory = inventory.claiming(outcome.machine_id, outcome.gpu_indices)
        else:
            assert not fitting(request, inventory), "what was not placed fits nowhere"


def no_gpu_is_given_twice(result: Placements, inventory: Inventory) -> None:
    given_out = [
        (outcome.machine_id, index)
        for outcome in result.outcomes
        if isinstance(outcome, Placement)
        for index in outcome.gpu_indices
    ]
    assert len(given_out) == len(set(given_out))
    assert all(index in inventory.free[machine_id] for machine_id, index in given_out)


def nothing_is_placed_against_its_requirements(request: Request, placement: Placement, inventory: Inventory) -> None:
    chosen = by_id(inventory)[placement.machine_id]
    assert meets(request, chosen)
    assert placement.gpu_num == request.requirements.gpu_num
    assert placement.gpu_indices == inventory.free[chosen.id][: placement.gpu_num]
    assert placement.cpu_num in request.requirements.cpu_num
    assert placement.memory_bytes in request.requirements.memory_bytes
    assert (placement.gpu_name, placement.data_center) == (chosen.gpu_name, chosen.data_center)


def an_avoided_machine_is_taken_only_when_no_other_fits(
    request: Request, placement: Placement, inventory: Inventory
) -> None:
    if placement.machine_id in request.avoid:
        assert {each.id for each in fitting(request, inventory)} <= request.avoid


@given(request_lists(), inventories())
def test_equal_arguments_give_equal_outcomes(requests: list[Request], inventory: Inventory) -> None:
    claims = {
        each.id: frozenset(range(each.gpu_num)) - frozenset(inventory.free[each.id]) for each in inventory.machines
    }
    reordered = Inventory.of(inventory.machines[::-1], claims)
    assert place(requests, reordered) == place(requests, inventory)


@given(request_lists(), inventories())
def test_requests_for_other_models_do_not_disturb_each_other(requests: list[Request], inventory: Inventory) -> None:
    ours = [
        Request(each.container_id, _of_model(each.requirements, MODELS[0]), each.avoid, each.blacklist)
        for each in requests[::2]
    ]
    theirs = [
        Request(each.container_id, _of_model(each.requirements, MODELS[1]), each.avoid, each.blacklist)
        for each in requests[1::2]
    ]
    mixed = [each for pair in zip(ours, theirs, strict=False) for each in pair] + ours[len(theirs) :]
    outcomes = dict(zip([each.container_id for each in mixed], place(mixed, inventory).outcomes, strict=True))
    for alone in (ours, theirs):
        for request, outcome in zip(alone, place(alone, inventory).outcomes, strict=True):
            together = outcomes[request.container_id]
            if isinstance(outcome, Placement):
                assert together == outcome
            else:
                assert isinstance(together, Unplaceable)


def _of_model(wish: Requirements, model: str) -> Requirements:
    return Requirements(
        gpu_num=wish.gpu_num, gpu_names=frozenset({model}), cuda=wish.cuda, price_milliyuan=wish.price_milliyuan
    )


def failing_rules(demand: Demand, machine: Machine, free_num: int) -> list[str]:
    """List the rules that reject a machine, written out without the rules' table."""
    wish = demand.requirements
    accepted = {
        "gpu_name": not wish.gpu_names or machine.gpu_name in wish.gpu_names,
        "gpu_num": machine.gpu_num >= wish.gpu_num,
        "data_center": not wish.data_centers or machine.data_center in wish.data_centers,
        "cuda": machine.cuda in wish.cuda,
        "cpu_num": machine.cpu_num // machine.gpu_num * wish.gpu_num in wish.cpu_num,
        "memory": machine.memory_bytes // machine.gpu_num * wish.gpu_num in wish.memory_bytes,
        "price": machine.price_milliyuan in wish.price_milliyuan,
        "blacklist": machine.id not in demand.blacklist,
        "free_gpus": free_num >= wish.gpu_num,
    }
    return [name for name, holds in accepted.items() if not holds]


@given(request_lists(), inventories())
def test_explanations_are_exact(requests: list[Request], inventory: Inventory) -> None:
    result = place(requests, inventory)
    end = after(result, inventory)
    order = [rule.name for rule in RULES]
    for request, outcome in zip(requests, result.outcomes, strict=True):
        if isinstance(outcome, Placement):
            continue
        explanation = outcome.explanation
        demand = Demand(request.requirements, request.blacklist)
        failing = {machine.id: failing_rules(demand, machine, len(end.free[machine.id])) for machine in end.machines}
        assert all(failing.values())
        assert explanation.demand == demand
        assert explanation.considered == len(end.machines)
        assert sum(count for _, count in explanation.rejected) == explanation.considered
        firsts = [names[0] for names in failing.values()]
        assert list(explanation.rejected) == [(name, firsts.count(name)) for name in order if name in firsts]
        if not failing:
            assert explanation.nearest is None
            continue
        nearest = explanation.nearest
        assert nearest is not None
        assert nearest.machine_id == min(
            failing,
            key=lambda each: (len(failing[each]), -order.index(failing[each][0]), -len(end.free[each]), each),
        )
        assert [miss.rule for miss in nearest.misses] == failing[nearest.machine_id]
        sentence = explanation.sentence()
        assert sentence.startswith(f"no machine fits: {explanation.considered} considered; ")
        assert all(miss.wanted in sentence and miss.offered in sentence for miss in nearest.misses)


@given(inventories(), requirements())
def test_fits_is_the_number_that_placement_really_places(inventory: Inventory, wish: Requirements) -> None:
    count = fits(inventory, wish)
    result = place([Request(ContainerId(f"c{number}"), wish) for number in range(count + 1)], inventory)
    assert [isinstance(outcome, Placement) for outcome in result.outcomes] == [True] * count + [False]


@given(inventories(), requirements())
def test_idle_stock_is_what_single_gpu_containers_could_take(inventory: Inventory, wish: Requirements) -> None:
    single = Requirements(1, wish.gpu_names, wish.data_centers, wish.cuda, wish.cpu_num, wish.memory_bytes)
    counted = stock(inventory, Requirements(4, *_fields_but_first(single)))
    assert sum(each.idle_gpu_num for each in counted) == fits(inventory, single)
    empty = Inventory.of(inventory.machines, {})
    assert sum(each.total_gpu_num for each in counted) == fits(empty, single)


def _fields_but_first(wish: Requirements) -> tuple[frozenset[str], frozenset[str], Range, Range, Range, Range]:
    return wish.gpu_names, wish.data_centers, wish.cuda, wish.cpu_num, wish.memory_bytes, wish.price_milliyuan
