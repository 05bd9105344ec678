"""What an estimate promises a person: only machines that qualify count, and only idle GPUs fit."""

from typing import Any

import pytest

from muster.cli.estimate import Estimate, estimate
from muster.client import Machine

GIB = 2**30


def machine(
    name: str,
    gpu: str = "RTX 4090",
    *,
    gpus: int = 4,
    taken: int = 0,
    price: int = 1980,
    center: str = "a",
    problem: str = "",
) -> Machine:
    return Machine(
        id=name,
        data_center=center,
        gpu_name=gpu,
        gpu_num=gpus,
        cpu_num=16 * gpus,
        memory_bytes=64 * GIB * gpus,
        cuda=128,
        price_milliyuan=price,
        chip_corp="nvidia",
        cpu_arch="x86",
        claimed_gpus=tuple(range(taken)),
        problem=problem,
    )


def body(replicas: int = 3, kind: str = "ReplicaSet", **template: Any) -> dict[str, Any]:
    return {"deployment_type": kind, "replica_num": replicas, "container_template": {"gpu_num": 1, **template}}


FLEET = [machine("m1", taken=3), machine("m2", taken=2, price=2500, center="b"), machine("m3", "L20", price=900)]


def test_prices_are_those_of_all_containers_on_the_cheapest_and_dearest_machine() -> None:
    expected = Estimate(wanted=3, fitting=3, machine_num=2, lowest_milliyuan=5940, highest_milliyuan=7500)
    assert estimate(body(gpu_name_set=["RTX 4090"]), FLEET) == expected


def test_idle_gpus_of_different_machines_do_not_add_up_to_one_container() -> None:
    assert estimate(body(gpu_name_set=["RTX 4090"], gpu_num=2), FLEET).fitting == 1


def test_nothing_fits_on_a_machine_that_cannot_be_used_but_it_qualifies() -> None:
    found = estimate(body(), [machine("m1", problem="engine_unavailable: no answer"), machine("m2", taken=3)])
    assert (found.machine_num, found.fitting) == (2, 1)


@pytest.mark.parametrize(
    ("template", "machine_num"),
    [
        ({}, 3),
        ({"dc_list": ["b"]}, 1),
        ({"region_sign": "b", "dc_list": []}, 1),
        ({"price_to": 2000}, 2),
        ({"price_from": 1000, "price_to": 0}, 2),
        ({"cuda_v_from": 130}, 0),
        ({"cuda_v": 118}, 3),
        ({"cpu_num_from": 17}, 0),
        ({"cpu_num_from": 17, "gpu_num": 2}, 3),
        ({"memory_size_to": 63}, 0),
        ({"memory_size_from": 64, "memory_size_to": 64}, 3),
        ({"gpu_num": 5}, 0),
    ],
)
def test_only_machines_that_qualify_count(template: dict[str, Any], machine_num: int) -> None:
    assert estimate(body(**template), FLEET).machine_num == machine_num


def test_where_no_machine_qualifies_there_is_no_price() -> None:
    assert estimate(body(gpu_name_set=["H200"]), FLEET) == Estimate(3, 0, 0, None, None, (("H200", ""),))


def test_a_job_costs_what_runs_at_once_and_a_container_is_one() -> None:
    job = {**body(6, "Job"), "parallelism_num": 2}
    assert estimate(job, FLEET).wanted == 2
    assert estimate(body(6, "Container"), FLEET).wanted == 1


def test_a_model_that_no_machine_has_is_named_with_the_one_that_may_be_meant() -> None:
    asked = body(gpu_name_set=["RTX 4009", "Z", "RTX 4090"])
    assert estimate(asked, [machine("m")]).strangers == (("RTX 4009", "RTX 4090"), ("Z", ""))
    assert estimate(body(), [machine("m")]).strangers == ()
