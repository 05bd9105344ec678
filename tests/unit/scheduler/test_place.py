"""Placement in small worlds; the properties hold it to its promises in random ones."""

import dataclasses

from muster.model.deployment import Requirements
from muster.model.ids import ContainerId, MachineId
from muster.model.machine import Machine
from muster.model.quantity import GIB
from muster.scheduler.inventory import Inventory
from muster.scheduler.place import Placed, Request, Unplaceable, place
from muster.scheduler.stock import Stock, fits, stock


def machine(name: str, *, gpus: int = 4, price: int = 1980, model: str = "RTX 4090") -> Machine:
    return Machine(MachineId(name), "lab-a", model, gpus, 16 * gpus, 64 * GIB * gpus, cuda=128, price_milliyuan=price)


def request(name: str, gpus: int = 1, *, avoid: str = "", blacklist: str = "") -> Request:
    return Request(
        ContainerId(name),
        Requirements(gpu_num=gpus),
        frozenset(map(MachineId, avoid.split())),
        frozenset(map(MachineId, blacklist.split())),
    )


def where(inventory: Inventory, *requests: Request) -> list[str]:
    """Say in short where each went: ``m1:0,1``, or ``-``."""
    return [
        f"{outcome.placement.machine_id}:{','.join(map(str, outcome.placement.gpu_indices))}"
        if isinstance(outcome, Placed)
        else "-"
        for outcome in place(requests, inventory).outcomes
    ]


def test_no_requests_give_no_outcomes() -> None:
    assert place([], Inventory.of([machine("m1")], {})).outcomes == ()


def test_each_choice_is_visible_to_the_next() -> None:
    inventory = Inventory.of([machine("m1")], {MachineId("m1"): frozenset({1})})
    assert where(inventory, *(request(f"c{number}") for number in range(4))) == ["m1:0", "m1:2", "m1:3", "-"]


def test_small_containers_fill_gaps_before_they_break_up_a_whole_machine() -> None:
    inventory = Inventory.of([machine("m1"), machine("m2")], {MachineId("m2"): frozenset({0, 1})})
    assert where(inventory, request("small"), request("whole", 4), request("small")) == ["m2:2", "m1:0,1,2,3", "m2:3"]


def test_among_equals_the_cheaper_then_the_lower_id_is_taken() -> None:
    inventory = Inventory.of([machine("m1"), machine("m3", price=1500), machine("m2", price=1500)], {})
    assert where(inventory, *(request("c", 4) for _ in range(3))) == ["m2:0,1,2,3", "m3:0,1,2,3", "m1:0,1,2,3"]


def test_a_machine_that_another_deployment_filled_up_to_is_packed_on_next() -> None:
    # The heap of the 2-GPU demand was built before the 1-GPU demand made m2 the better gap.
    inventory = Inventory.of([machine("m1", gpus=8), machine("m2", gpus=8)], {MachineId("m2"): frozenset({0, 1, 2})})
    placed = where(inventory, request("a", 2, blacklist="m2"), request("b"), request("a", 2), request("a", 2))
    assert placed == ["m1:0,1", "m2:3", "m2:4,5", "m2:6,7"]


def test_an_avoided_machine_comes_last_but_is_no_ban() -> None:
    inventory = Inventory.of([machine("m1", gpus=1), machine("m2", gpus=2)], {})
    placed = where(inventory, *(request("c", avoid="m1") for _ in range(4)))
    assert placed == ["m2:0", "m2:1", "m1:0", "-"]


def test_a_blacklisted_machine_is_never_taken() -> None:
    assert where(Inventory.of([machine("m1")], {}), request("c", blacklist="m1")) == ["-"]


def test_one_that_does_not_fit_holds_nobody_back() -> None:
    assert where(Inventory.of([machine("m1")], {}), request("huge", 5), request("small")) == ["-", "m1:0"]


def test_the_explanation_tells_how_things_stand_at_the_end() -> None:
    inventory = Inventory.of([machine("m1"), machine("m2", gpus=2)], {MachineId("m1"): frozenset({0})})
    first, _ = place([request("large", 4), request("small", 3)], inventory).outcomes
    assert isinstance(first, Unplaceable)
    assert first.explanation.rejected == (("gpu_num", 1), ("free_gpus", 1))
    assert first.explanation.sentence() == (
        "no machine fits: 2 considered; 1 has fewer than 4 GPUs, 1 has fewer than 4 GPUs free; "
        "nearest is m1 with 0 of 4 GPUs free (4 wanted)"
    )


def test_without_machines_the_explanation_says_so() -> None:
    (outcome,) = place([request("c")], Inventory.of([], {})).outcomes
    assert isinstance(outcome, Unplaceable)
    assert outcome.explanation.sentence() == "no machine fits: none is offered"


def test_stock_counts_single_gpus_and_fits_counts_containers() -> None:
    inventory = Inventory.of(
        [machine("m1"), machine("m2"), machine("m3", gpus=8, model="L20")],
        {MachineId("m1"): frozenset({0, 1, 2}), MachineId("m2"): frozenset({0, 1, 3})},
    )
    assert stock(inventory, Requirements()) == (
        Stock("L20", 8, 8, "nvidia", "x86"),
        Stock("RTX 4090", 2, 8, "nvidia", "x86"),
    )
    only_4090 = frozenset({"RTX 4090"})
    assert fits(inventory, Requirements(1, only_4090)) == 2
    assert fits(inventory, Requirements(2, only_4090)) == 0


def test_a_machine_that_cannot_be_used_takes_nothing_but_still_counts_as_owned() -> None:
    inventory, broken = Inventory.of([machine("m1"), machine("m2")], {}), frozenset({MachineId("m1")})
    assert fits(inventory, Requirements(2), unavailable=broken) == 2
    assert stock(inventory, Requirements(), unavailable=broken) == (Stock("RTX 4090", 4, 8, "nvidia", "x86"),)


def test_a_model_without_a_matching_machine_is_absent_and_a_busy_one_is_not() -> None:
    inventory = Inventory.of([machine("m1", gpus=1), machine("m2", model="L20")], {MachineId("m1"): frozenset({0})})
    assert stock(inventory, Requirements(gpu_names=frozenset({"RTX 4090"}))) == (
        Stock("RTX 4090", 0, 1, "nvidia", "x86"),
    )
    assert stock(inventory, Requirements(), frozenset({MachineId("m1"), MachineId("m2")})) == ()


def test_a_saved_image_is_run_only_where_it_is_and_others_say_why() -> None:
    inventory = Inventory.of([machine("m1", gpus=1), machine("m2", gpus=1)], {})
    saved = dataclasses.replace(request("c"), image_holders=frozenset({MachineId("m2")}), is_image_saved=True)
    assert where(inventory, saved, saved) == ["m2:0", "-"]
    refused = place([saved, saved], inventory).outcomes[1]
    assert isinstance(refused, Unplaceable)
    assert refused.explanation.sentence() == (
        "no machine fits: 2 considered; 1 does not hold the saved image, which is in no registry, 1 has fewer than"
        " 1 GPU free; nearest is m2 with 0 of 1 GPU free (1 wanted)"
    )
