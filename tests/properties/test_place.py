"""Placement in safety sentences, on random clusters; and the fast version against the obvious one."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, combinations_with_replacement
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from muster.model.deployment import Requirements
from muster.model.ids import ContainerId, ContainerUuid, MachineId
from muster.model.machine import Machine
from muster.model.quantity import ANY, GIB, Range
from muster.scheduler import units
from muster.scheduler.filters import RULES, Demand
from muster.scheduler.inventory import Inventory
from muster.scheduler.place import Placed, Placements, Request, Unplaceable, place
from muster.scheduler.rank import Rank, rank
from muster.scheduler.reuse import Reusable, affinity
from muster.scheduler.stock import fits, fits_by_size, stock

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
        lambda shapes, claims, pool: Inventory.of([machine(*each) for each in shapes.items()], claims, pool),
        st.dictionaries(st.sampled_from(MACHINE_IDS), SHAPES),
        st.dictionaries(st.sampled_from(MACHINE_IDS), subsets(range(5), 5)),
        st.dictionaries(st.sampled_from(MACHINE_IDS), subsets(range(4), 2)),
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
NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
POOLED_ELSE = (
    subsets(range(4), 2).filter(bool),  # the GPUs that it had
    st.booleans(),  # ended well
    st.integers(0, 2),  # minutes after noon
)
POOLED = st.tuples(st.sampled_from(MACHINE_IDS), *POOLED_ELSE)


@st.composite
def request_lists(draw: st.DrawFn) -> list[Request]:
    # Few distinct requirements, pools and images, and many requests for each, as deployments make them.
    wishes = draw(st.lists(requirements() | st.just(Requirements()), min_size=1, max_size=4))
    pool = draw(st.lists(POOLED, max_size=6))
    pools = [_pool(pool, is_same_deployment=seen) for seen in draw(st.lists(subsets(range(6), 3), max_size=2))]
    holders = draw(st.lists(SOME_MACHINES, max_size=2))
    parts = draw(
        st.lists(
            st.tuples(
                st.sampled_from(wishes),
                SOME_MACHINES,
                FEW_MACHINES,
                st.sampled_from([(), *pools]),
                st.sampled_from([None, *holders]),
                FEW_MACHINES,
                st.sampled_from([False, False, True]),
            ),
            max_size=16,
        )
    )
    return [Request(ContainerId(f"c{number}"), *part) for number, part in enumerate(parts)]


@st.composite
def churn(draw: st.DrawFn) -> tuple[list[Request], Inventory]:
    """Draw many requests of two sizes over three machines and one pool, so that they get in each other's way."""
    sizes = draw(st.lists(st.integers(2, 4), min_size=3, max_size=3))
    hosts = [
        machine(machine_id, (CENTERS[0], MODELS[0], gpu_num, 0, 0, 0, 0, 0))
        for machine_id, gpu_num in zip(MACHINE_IDS, sizes, strict=False)
    ]
    inventory = Inventory.of(hosts, {}, draw(st.dictionaries(st.sampled_from(MACHINE_IDS), subsets(range(4), 2))))
    pool = draw(st.lists(st.tuples(st.sampled_from(MACHINE_IDS[:3]), *POOLED_ELSE), min_size=2, max_size=8))
    pools = [
        _pool(pool, is_same_deployment=seen) for seen in draw(st.lists(subsets(range(8), 4), min_size=2, max_size=2))
    ]
    avoids = st.sampled_from([frozenset(), frozenset(MACHINE_IDS[:1]), frozenset(MACHINE_IDS[1:2])])
    parts = draw(
        st.lists(
            st.tuples(st.sampled_from([Requirements(1), Requirements(2)]), avoids, st.sampled_from([*pools, ()])),
            min_size=2,
            max_size=10,
        )
    )
    return [
        Request(ContainerId(f"c{number}"), wish, avoid, reusable=pool)
        for number, (wish, avoid, pool) in enumerate(parts)
    ], inventory


def _pool(
    pooled: Sequence[tuple[MachineId, frozenset[int], bool, int]], is_same_deployment: frozenset[int]
) -> tuple[Reusable, ...]:
    """Make what one deployment is offered: the same containers as others, but other ones of them are its own."""
    return tuple(
        Reusable(
            uuid=ContainerUuid(f"u{number}"),
            machine_id=machine_id,
            gpu_indices=tuple(sorted(indices)),
            is_same_deployment=number in is_same_deployment,
            ended_well=ended_well,
            stopped_at=NOON + datetime.timedelta(minutes=minutes),
        )
        for number, (machine_id, indices, ended_well, minutes) in enumerate(pooled)
    )


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
        and machine.id not in request.unavailable
        and (not request.is_image_saved or request.image_holders is None or machine.id in request.image_holders)
    )


def fitting(request: Request, inventory: Inventory) -> list[Machine]:
    wanted = request.requirements.gpu_num
    return [each for each in inventory.machines if meets(request, each) and len(inventory.free[each.id]) >= wanted]


def takeable(request: Request, inventory: Inventory, reused: set[ContainerUuid]) -> list[Reusable]:
    machine_ids = {machine.id for machine in fitting(request, inventory)}
    return [each for each in request.reusable if each.machine_id in machine_ids and each.uuid not in reused]


def is_in_place(request: Request, reusable: Reusable, inventory: Inventory) -> bool:
    has_its_number = len(reusable.gpu_indices) == request.requirements.gpu_num
    return has_its_number and set(reusable.gpu_indices) <= set(inventory.free[reusable.machine_id])


def picked(machine_id: MachineId, gpu_num: int, inventory: Inventory) -> tuple[int, ...]:
    """Say independently of ``units.pick`` which GPUs of a machine are given."""
    pool = inventory.wanted_by_pool.get(machine_id, frozenset())
    free = inventory.free[machine_id]
    chosen = [each for each in free if each not in pool][:gpu_num]
    chosen += [each for each in free if each in pool][: gpu_num - len(chosen)]
    return tuple(sorted(chosen))


Choice = tuple[MachineId, tuple[int, ...], ContainerUuid | None]


def simple_choice(request: Request, inventory: Inventory, reused: set[ContainerUuid]) -> Choice | None:
    """Choose as obviously as possible: look at every reusable container, then at every machine."""
    wanted = request.requirements.gpu_num
    for may_avoid in (False, True):
        offered = [
            (affinity(each, is_in_place=is_in_place(request, each, inventory)), each)
            for each in takeable(request, inventory, reused)
            if may_avoid or each.machine_id not in request.avoid
        ]
        if offered:
            preference, reusable = min(offered, key=lambda pair: pair[0])
            machine_id = reusable.machine_id
            indices = picked(machine_id, wanted, inventory) if preference.is_copied else reusable.gpu_indices
            return machine_id, indices, reusable.uuid
        machines = [each for each in fitting(request, inventory) if may_avoid or each.id not in request.avoid]
        if machines:
            best = min(machines, key=lambda each: rank_of(request, each, inventory))
            return best.id, picked(best.id, wanted, inventory), None
    return None


def rank_of(request: Request, machine: Machine, inventory: Inventory) -> Rank:
    return rank(
        machine,
        len(inventory.free[machine.id]) - request.requirements.gpu_num,
        is_avoided=machine.id in request.avoid,
        lacks_image=request.image_holders is not None and machine.id not in request.image_holders,
    )


def simple_place(requests: Sequence[Request], inventory: Inventory) -> list[Placed | None]:
    """Place as obviously as possible, one request after the other."""
    outcomes: list[Placed | None] = []
    reused: set[ContainerUuid] = set()
    machines = by_id(inventory)
    for request in requests:
        choice = simple_choice(request, inventory, reused)
        if choice is None:
            outcomes.append(None)
            continue
        machine_id, indices, uuid = choice
        before, inventory = inventory, inventory.claiming(machine_id, indices)
        taken = [each for each in request.reusable if each.uuid == uuid]
        reused.update(each.uuid for each in taken)
        outcomes.append(
            Placed(
                placement=units.allot(machines[machine_id], indices),
                reuses=uuid,
                is_in_place=any(is_in_place(request, each, before) for each in taken),
                has_image=None if request.image_holders is None else machine_id in request.image_holders,
                is_avoided=machine_id in request.avoid,
                gpus_left=len(inventory.free[machine_id]),
            )
        )
    return outcomes


def after(result: Placements, inventory: Inventory) -> Inventory:
    for outcome in result.outcomes:
        if isinstance(outcome, Placed):
            inventory = claimed(outcome, inventory)
    return inventory


def claimed(outcome: Placed, inventory: Inventory) -> Inventory:
    return inventory.claiming(outcome.placement.machine_id, outcome.placement.gpu_indices)


def by_id(inventory: Inventory) -> Mapping[MachineId, Machine]:
    return {machine.id: machine for machine in inventory.machines}


@given(request_lists(), inventories())
def test_the_fast_placement_is_the_simple_placement(requests: list[Request], inventory: Inventory) -> None:
    fast = [outcome if isinstance(outcome, Placed) else None for outcome in place(requests, inventory).outcomes]
    assert fast == simple_place(requests, inventory)


@given(churn())
def test_the_fast_reuse_is_the_simple_reuse(world: tuple[list[Request], Inventory]) -> None:
    requests, inventory = world
    fast = [outcome if isinstance(outcome, Placed) else None for outcome in place(requests, inventory).outcomes]
    assert fast == simple_place(requests, inventory)


@given(request_lists(), inventories())
def test_placements_are_safe(requests: list[Request], inventory: Inventory) -> None:
    result = place(requests, inventory)
    assert len(result.outcomes) == len(requests)
    no_gpu_is_given_twice(result, inventory)
    reused: set[ContainerUuid] = set()
    for request, outcome in zip(requests, result.outcomes, strict=True):
        if isinstance(outcome, Placed):
            nothing_is_placed_against_its_requirements(request, outcome, inventory)
            an_avoided_machine_is_taken_only_when_no_other_fits(request, outcome, inventory)
            what_is_reused_was_offered_and_is_still_there(request, outcome, inventory, reused)
            a_fresh_start_means_that_nothing_could_be_reused(request, outcome, inventory, reused)
            inventory = claimed(outcome, inventory)
            if outcome.reuses is not None:
                reused.add(outcome.reuses)
        else:
            assert not fitting(request, inventory), "what was not placed fits nowhere"


def no_gpu_is_given_twice(result: Placements, inventory: Inventory) -> None:
    given_out = [
        (outcome.placement.machine_id, index)
        for outcome in result.outcomes
        if isinstance(outcome, Placed)
        for index in outcome.placement.gpu_indices
    ]
    assert len(given_out) == len(set(given_out))
    assert all(index in inventory.free[machine_id] for machine_id, index in given_out)


def nothing_is_placed_against_its_requirements(request: Request, outcome: Placed, inventory: Inventory) -> None:
    placement = outcome.placement
    chosen = by_id(inventory)[placement.machine_id]
    assert meets(request, chosen)
    assert placement.gpu_num == request.requirements.gpu_num
    assert list(placement.gpu_indices) == sorted(placement.gpu_indices)
    assert placement.cpu_num in request.requirements.cpu_num
    assert placement.memory_bytes in request.requirements.memory_bytes
    assert (placement.gpu_name, placement.data_center) == (chosen.gpu_name, chosen.data_center)


def an_avoided_machine_is_taken_only_when_no_other_fits(
    request: Request, outcome: Placed, inventory: Inventory
) -> None:
    if outcome.placement.machine_id in request.avoid:
        assert outcome.is_avoided
        assert {each.id for each in fitting(request, inventory)} <= request.avoid


def what_is_reused_was_offered_and_is_still_there(
    request: Request, outcome: Placed, inventory: Inventory, reused: set[ContainerUuid]
) -> None:
    if outcome.reuses is not None:
        assert outcome.reuses not in reused
        (reusable,) = [each for each in request.reusable if each.uuid == outcome.reuses]
        assert reusable.machine_id == outcome.placement.machine_id
        assert outcome.is_in_place == is_in_place(request, reusable, inventory)
        assert not outcome.is_in_place or outcome.placement.gpu_indices == reusable.gpu_indices


def a_fresh_start_means_that_nothing_could_be_reused(
    request: Request, outcome: Placed, inventory: Inventory, reused: set[ContainerUuid]
) -> None:
    if outcome.reuses is None:
        left = {each.machine_id for each in takeable(request, inventory, reused)}
        assert left <= request.avoid, "only an avoided machine may be worth less than a fresh start"
        assert not left or not outcome.is_avoided


@given(request_lists(), inventories())
def test_equal_arguments_give_equal_outcomes(requests: list[Request], inventory: Inventory) -> None:
    claims = {
        each.id: frozenset(range(each.gpu_num)) - frozenset(inventory.free[each.id]) for each in inventory.machines
    }
    reordered = Inventory.of(inventory.machines[::-1], claims, inventory.wanted_by_pool)
    assert place(requests, reordered) == place(requests, inventory)


@given(request_lists(), inventories())
def test_requests_for_other_models_do_not_disturb_each_other(requests: list[Request], inventory: Inventory) -> None:
    ours = [replace(each, requirements=_of_model(each.requirements, MODELS[0])) for each in requests[::2]]
    theirs = [replace(each, requirements=_of_model(each.requirements, MODELS[1])) for each in requests[1::2]]
    mixed = [each for pair in zip(ours, theirs, strict=False) for each in pair] + ours[len(theirs) :]
    outcomes = dict(zip([each.container_id for each in mixed], place(mixed, inventory).outcomes, strict=True))
    for alone in (ours, theirs):
        for request, outcome in zip(alone, place(alone, inventory).outcomes, strict=True):
            together = outcomes[request.container_id]
            if isinstance(outcome, Placed):
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
        "image": demand.image_only_on is None or machine.id in demand.image_only_on,
        "blacklist": machine.id not in demand.blacklist,
        "engine": machine.id not in demand.unavailable,
        "free_gpus": free_num >= wish.gpu_num,
    }
    return [name for name, holds in accepted.items() if not holds]


@given(request_lists(), inventories())
def test_explanations_are_exact(requests: list[Request], inventory: Inventory) -> None:
    result = place(requests, inventory)
    end = after(result, inventory)
    order = [rule.name for rule in RULES]
    for request, outcome in zip(requests, result.outcomes, strict=True):
        if isinstance(outcome, Placed):
            continue
        explanation = outcome.explanation
        only_on = request.image_holders if request.is_image_saved else None
        demand = Demand(request.requirements, request.blacklist, request.unavailable, only_on)
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


@given(inventories(), requirements(), FEW_MACHINES)
def test_fits_is_the_number_that_placement_really_places(
    inventory: Inventory, wish: Requirements, broken: frozenset[MachineId]
) -> None:
    count = fits(inventory, wish, unavailable=broken)
    requests = [Request(ContainerId(f"c{number}"), wish, unavailable=broken) for number in range(count + 1)]
    result = place(requests, inventory)
    assert [isinstance(outcome, Placed) for outcome in result.outcomes] == [True] * count + [False]


@given(inventories(), requirements(), FEW_MACHINES)
def test_idle_stock_is_what_single_gpu_containers_could_take(
    inventory: Inventory, wish: Requirements, broken: frozenset[MachineId]
) -> None:
    single = Requirements(1, wish.gpu_names, wish.data_centers, wish.cuda, wish.cpu_num, wish.memory_bytes)
    counted = stock(inventory, Requirements(4, *_fields_but_first(single)), unavailable=broken)
    assert sum(each.idle_gpu_num for each in counted) == fits(inventory, single, unavailable=broken)
    empty = Inventory.of(inventory.machines, {})
    assert sum(each.total_gpu_num for each in counted) == fits(empty, single)


@given(inventories(), requirements(), FEW_MACHINES, FEW_MACHINES)
def test_fits_by_size_is_what_placement_really_places_of_each_size(
    inventory: Inventory, wish: Requirements, broken: frozenset[MachineId], banned: frozenset[MachineId]
) -> None:
    for name in MODELS:
        for size, count in fits_by_size(inventory, wish, name, banned, broken).items():
            of_model = replace(wish, gpu_num=size, gpu_names=frozenset({name}))
            request = Request(ContainerId("c"), of_model, blacklist=banned, unavailable=broken)
            result = place([request] * (count + 1), inventory)
            assert [isinstance(outcome, Placed) for outcome in result.outcomes] == [True] * count + [False]


def _fields_but_first(wish: Requirements) -> tuple[frozenset[str], frozenset[str], Range, Range, Range, Range]:
    return wish.gpu_names, wish.data_centers, wish.cuda, wish.cpu_num, wish.memory_bytes, wish.price_milliyuan
