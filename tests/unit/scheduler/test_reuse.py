"""Which container of the pool is taken over, one preference after the other."""

import datetime
from dataclasses import replace

from muster.model.deployment import Requirements
from muster.model.ids import ContainerId, ContainerUuid, MachineId
from muster.model.machine import Machine
from muster.model.quantity import GIB
from muster.scheduler.inventory import Inventory
from muster.scheduler.place import Placed, Request, place
from muster.scheduler.reuse import Reusable

NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


def machine(name: str, gpus: int = 4) -> Machine:
    return Machine(MachineId(name), "lab-a", "L20", gpus, 16 * gpus, 64 * GIB * gpus, cuda=128, price_milliyuan=1980)


def pooled(uuid: str, machine_id: str, *gpu_indices: int) -> Reusable:
    return Reusable(
        uuid=ContainerUuid(uuid),
        machine_id=MachineId(machine_id),
        gpu_indices=gpu_indices,
        is_same_deployment=True,
        ended_well=True,
        stopped_at=NOON,
    )


def at(minutes: int, reusable: Reusable) -> Reusable:
    return replace(reusable, stopped_at=NOON + datetime.timedelta(minutes=minutes))


def asking(*reusable: Reusable, gpus: int = 1, avoid: str = "") -> Request:
    return Request(
        ContainerId("c"),
        Requirements(gpu_num=gpus),
        frozenset(map(MachineId, avoid.split())),
        reusable=reusable,
    )


def placed(inventory: Inventory, *requests: Request) -> list[Placed]:
    outcomes = place(requests, inventory).outcomes
    assert all(isinstance(outcome, Placed) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, Placed)]


def taken(inventory: Inventory, *requests: Request) -> list[str]:
    """Say in short what each took over and where: ``a=m1:0,1``, a copy as ``a>m1:0,1``, a fresh one as ``m1:0,1``."""
    return [
        f"{'' if each.reuses is None else each.reuses + ('=' if each.is_in_place else '>')}"
        f"{each.placement.machine_id}:{','.join(map(str, each.placement.gpu_indices))}"
        for each in placed(inventory, *requests)
    ]


ONE = Inventory.of([machine("m1")], {})


def test_a_reusable_container_is_worth_more_than_packing() -> None:
    inventory = Inventory.of([machine("m1", 8), machine("m2", 1)], {})
    assert taken(inventory, asking()) == ["m2:0"]
    assert taken(inventory, asking(pooled("a", "m1", 5))) == ["a=m1:5"]


def test_one_with_its_own_gpus_free_goes_before_a_more_recent_copy() -> None:
    inventory = Inventory.of([machine("m1")], {MachineId("m1"): frozenset({0})})
    assert taken(inventory, asking(at(9, pooled("a", "m1", 0)), pooled("b", "m1", 1))) == ["b=m1:1"]


def test_another_number_of_gpus_is_a_copy() -> None:
    assert taken(ONE, asking(pooled("a", "m1", 2, 3), gpus=1)) == ["a>m1:0"]
    assert taken(ONE, asking(pooled("a", "m1", 2), gpus=3)) == ["a>m1:0,1,2"]
    assert taken(ONE, asking(pooled("a", "m1", 2, 3), gpus=2)) == ["a=m1:2,3"]


def test_gpus_that_the_machine_no_longer_has_make_a_copy() -> None:
    assert taken(ONE, asking(pooled("a", "m1", 7))) == ["a>m1:0"]


def test_one_that_ended_well_then_the_same_deployment_then_the_latest_then_the_uuid_is_taken() -> None:
    failed = at(4, replace(pooled("a", "m1", 0), ended_well=False))
    foreign = at(3, replace(pooled("b", "m1", 1), is_same_deployment=False))
    early, late, twin = at(1, pooled("c", "m1", 2)), at(2, pooled("e", "m1", 3)), at(2, pooled("d", "m1", 3))
    everything = (failed, foreign, early, late, twin)
    # "e" lost its GPU to its twin and would be a copy, but the machine is full before its turn comes.
    assert taken(ONE, *[asking(*everything)] * 4) == ["d=m1:3", "c=m1:2", "b=m1:1", "a=m1:0"]


def test_one_that_is_taken_is_gone_for_the_next() -> None:
    both = asking(pooled("a", "m1", 2))
    assert taken(ONE, both, both) == ["a=m1:2", "m1:0"]


def test_one_that_loses_its_gpus_during_the_call_becomes_a_copy() -> None:
    wide, narrow = pooled("a", "m1", 0, 1), at(9, pooled("b", "m1", 1))
    ours = asking(wide, gpus=2)
    assert taken(ONE, ours, asking(narrow)) == ["a=m1:0,1", "b>m1:2"]
    # The same requests, so that what was sorted before the loss is looked at again after it.
    more = asking(pooled("c", "m1", 2), narrow, at(1, pooled("d", "m1", 1)))
    assert taken(ONE, more, more, more) == ["b=m1:1", "c=m1:2", "d>m1:0"]


def test_what_was_passed_over_on_a_machine_to_avoid_is_there_for_the_next() -> None:
    ours = asking(pooled("a", "m1", 2))
    inventory = Inventory.of([machine("m1"), machine("m2")], {})
    assert taken(inventory, replace(ours, avoid=frozenset({MachineId("m1")})), ours) == ["m2:0", "a=m1:2"]


def test_a_request_of_another_deployment_sees_it_gone_too() -> None:
    ours = asking(pooled("a", "m1", 2))
    theirs = replace(ours, reusable=(replace(ours.reusable[0], is_same_deployment=False),))
    assert taken(ONE, theirs, ours) == ["a=m1:2", "m1:0"]


def test_it_is_not_taken_where_the_request_may_not_go() -> None:
    inventory = Inventory.of([machine("m1"), machine("m2")], {})
    ours = asking(pooled("a", "m1", 2))
    banned = frozenset({MachineId("m1")})
    assert taken(inventory, ours) == ["a=m1:2"]
    assert taken(inventory, replace(ours, blacklist=banned)) == ["m2:0"]
    assert taken(inventory, replace(ours, unavailable=banned)) == ["m2:0"]
    assert taken(inventory, asking(pooled("a", "retired", 0))) == ["m1:0"]
    assert taken(
        Inventory.of([machine("m1"), machine("m2")], {MachineId("m1"): frozenset({0, 1})}),
        asking(pooled("a", "m1", 0, 1, 2), gpus=3),
    ) == ["m2:0,1,2"]


def test_a_machine_to_avoid_comes_after_a_fresh_start_elsewhere() -> None:
    inventory = Inventory.of([machine("m1", 1), machine("m2", 2)], {})
    again = asking(pooled("a", "m1", 0), avoid="m1")
    assert taken(inventory, again, again) == ["m2:0", "m2:1"]
    assert taken(inventory, again, again, again) == ["m2:0", "m2:1", "a=m1:0"]
    elsewhere = asking(pooled("a", "m1", 0), pooled("b", "m2", 1), avoid="m1")
    assert taken(inventory, elsewhere) == ["b=m2:1"]


def test_a_fresh_start_spares_the_gpus_of_pooled_containers() -> None:
    inventory = Inventory.of([machine("m1")], {}, {MachineId("m1"): frozenset({0})})
    ours = asking(pooled("a", "m1", 0))
    assert taken(inventory, asking(), ours) == ["m1:1", "a=m1:0"]
    assert taken(ONE, asking(), ours) == ["m1:0", "a>m1:1"]


def test_a_machine_that_holds_the_image_goes_before_one_that_packs_better() -> None:
    inventory = Inventory.of([machine("m1"), machine("m2", 1)], {})
    ours = asking()
    assert taken(inventory, replace(ours, image_holders=frozenset({MachineId("m1")}))) == ["m1:0"]
    assert taken(inventory, replace(ours, image_holders=frozenset())) == ["m2:0"]
    reusing = asking(pooled("a", "m2", 0))
    assert taken(inventory, replace(reusing, image_holders=frozenset({MachineId("m1")}))) == ["a=m2:0"]


def test_what_was_chosen_says_why() -> None:
    def why(request: Request, inventory: Inventory = ONE) -> str:
        return placed(inventory, request)[0].sentence()

    there = frozenset({MachineId("m1")})
    assert why(asking()) == "fewest GPUs left over: 3"
    assert why(replace(asking(gpus=4), image_holders=there)) == "the image is there, fewest GPUs left over: 0"
    assert why(replace(asking(), image_holders=frozenset())) == "the image must be fetched, fewest GPUs left over: 3"
    assert why(asking(pooled("a", "m1", 2))) == "reuses a with its GPUs"
    assert why(asking(pooled("a", "m1", 2), gpus=2)) == "reuses a, copied to GPUs 0, 1"
    assert why(asking(pooled("a", "m1", 2, 3))) == "reuses a, copied to GPU 0"
    assert why(asking(avoid="m1")) == "fewest GPUs left over: 3 (a machine to avoid, but no other fits)"
