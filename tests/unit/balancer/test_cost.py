"""The learned cost: what it finds out, what cannot mislead it, and how soon."""

import json
import math
import random
from collections.abc import Callable

import pytest

from muster.balancer.cost import MOST_KINDS, CostModel, Features
from muster.balancer.regression import Regression

Replica = tuple[str, str, float]
Draw = Callable[[random.Random], tuple[dict[str, float], float]]

ALONE: tuple[Replica, ...] = (("A", "a1", 1.0),)


def taught(
    draw: Draw,
    count: int,
    *,
    seed: int = 0,
    fleet: tuple[Replica, ...] = ALONE,
    model: CostModel | None = None,
    gamma: float = 0.0,
) -> CostModel:
    """Return a model that has seen ``count`` requests."""
    rng = random.Random(seed)
    model = model or CostModel()
    for _ in range(count):
        features, work = draw(rng)
        gpu, replica, slowness = rng.choice(fleet)
        in_flight = rng.randint(1, 4)
        model.observe(features, gpu, replica, work * slowness * in_flight**gamma, in_flight)
    return model


def image(rng: random.Random) -> tuple[dict[str, float], float]:
    pixels, steps = rng.choice([512.0, 768.0, 1024.0]) ** 2, rng.choice([4.0, 20.0, 50.0])
    return {"pixels": pixels, "steps": steps}, 2e-9 * pixels * steps * math.exp(rng.gauss(0, 0.1))


def chat(rng: random.Random) -> tuple[dict[str, float], float]:
    prompt, most = math.exp(rng.gauss(6, 1.5)), math.exp(rng.gauss(5, 1))
    return {"prompt": prompt, "most": most}, (0.05 + 1e-3 * prompt + 0.02 * most) * math.exp(rng.gauss(0, 0.1))


def plain(rng: random.Random) -> tuple[dict[str, float], float]:
    return {}, 0.1 * math.exp(rng.gauss(0, 0.3))


def of_size(unit: float) -> Draw:
    def draw(rng: random.Random) -> tuple[dict[str, float], float]:
        size = math.exp(rng.gauss(0, 1))
        return {"size": size * unit}, size * math.exp(rng.gauss(0, 0.2))

    return draw


def error_of(model: CostModel, features: Features | None, seconds: float) -> float:
    return abs(math.log(model.work(features) / seconds))


def test_before_the_first_answer_any_request_costs_the_same() -> None:
    model = CostModel()
    assert model.work(None) == model.work({"pixels": 1e6}) == 1.0
    assert model.slowness("A", "a1") == 1.0
    assert model.crowding == 0.0


def test_the_first_answer_was_as_expected_and_is_what_the_next_is_expected_to_take() -> None:
    model = CostModel()
    assert model.observe(None, "A", "a1", 30.0, 1) == 1.0
    assert 20.0 < model.work(None) < 60.0
    expected = model.work(None)
    assert model.observe(None, "A", "a1", 30.0, 1) == pytest.approx(30.0 / expected)


def test_a_product_is_learned() -> None:
    model = taught(image, 200)
    assert error_of(model, {"pixels": 1024.0**2, "steps": 50.0}, 2e-9 * 1024**2 * 50) < 0.15
    assert error_of(model, {"pixels": 512.0**2, "steps": 4.0}, 2e-9 * 512**2 * 4) < 0.15
    assert error_of(model, {"steps": 30.0, "pixels": 700.0**2}, 2e-9 * 700**2 * 30) < 0.15  # unseen, in another order


def test_a_sum_is_learned() -> None:
    model = taught(chat, 400)
    for prompt, most in ((3000.0, 10.0), (50.0, 500.0), (400.0, 150.0)):
        assert error_of(model, {"prompt": prompt, "most": most}, 0.05 + 1e-3 * prompt + 0.02 * most) < 0.4
    assert model.statistics().kinds["most, prompt"].in_use == "additive"


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e12])
def test_the_unit_of_a_feature_does_not_matter(unit: float) -> None:
    model = taught(of_size(unit), 60)
    assert error_of(model, {"size": 3.0 * unit}, 3.0) < 0.25
    assert error_of(model, {"size": 0.3 * unit}, 0.3) < 0.25


def inverse(rng: random.Random) -> tuple[dict[str, float], float]:
    features, seconds = of_size(1.0)(rng)
    return {"size": 1.0 / features["size"]}, seconds


@pytest.mark.parametrize("after", [of_size(1e-6), inverse])
def test_features_that_change_their_meaning_are_learned_anew(after: Draw) -> None:
    errors = []
    for seed in range(5):
        model = taught(after, 150, seed=seed, model=taught(of_size(1.0), 600, seed=seed + 5))
        rng = random.Random(seed + 10)
        errors += [error_of(model, *after(rng)) for _ in range(100)]
    assert sum(errors) / len(errors) < 0.3  # 0.16 is the noise, and who knows nothing errs by 0.8


def test_a_fixed_cost_beside_a_product_is_learned() -> None:
    def draw(rng: random.Random) -> tuple[dict[str, float], float]:
        features, _ = image(rng)
        return features, (0.5 + 2e-8 * features["pixels"] * features["steps"]) * math.exp(rng.gauss(0, 0.05))

    kind = taught(draw, 300).statistics().kinds["pixels, steps"]
    assert kind.in_use == "additive"
    assert kind.error < 0.08
    assert float(kind.formula.partition(" s")[0]) == pytest.approx(0.5, rel=0.2)


def test_work_is_the_mean_so_that_waiting_work_adds_up() -> None:
    draws: list[Draw] = [
        lambda rng: ({}, math.exp(rng.gauss(0, 0.8))),  # log-normal
        lambda rng: ({}, rng.expovariate(1.0)),  # its logarithm is skewed to the other side
    ]
    for draw in draws:
        expected, took = 0.0, 0.0
        rng = random.Random(3)
        model = taught(draw, 200)
        for _ in range(3000):
            _, seconds = draw(rng)
            expected += model.work(None)
            took += seconds
            model.observe(None, "A", "a1", seconds, 1)
        assert expected == pytest.approx(took, rel=0.12)


def test_a_stuck_request_changes_little() -> None:
    model = taught(image, 200)
    features = {"pixels": 768.0**2, "steps": 20.0}
    before = model.work(features)
    assert model.observe(features, "A", "a1", 3600.0, 1) > 10_000
    assert model.work(features) == pytest.approx(before, rel=0.1)


def test_two_kinds_of_request_have_each_their_own_cost() -> None:
    model = taught(image, 100)
    taught(chat, 100, model=model)
    taught(lambda rng: ({}, 100.0), 30, model=model)
    assert error_of(model, {"pixels": 512.0**2, "steps": 20.0}, 2e-9 * 512**2 * 20) < 0.3
    assert error_of(model, {"prompt": 400.0, "most": 150.0}, 3.45) < 0.4
    assert error_of(model, None, 100.0) < 0.3
    assert model.statistics().unmatched == 30
    assert model.slowness("A", "a1") == pytest.approx(1.0, rel=0.1)


def test_names_never_seen_cost_the_mean() -> None:
    model = taught(plain, 200)
    assert model.work({"invented": 1e9}) == pytest.approx(model.work(None), rel=0.1)
    assert model.statistics().kinds.keys() == {"no features"}  # asking teaches nothing


def test_the_least_recently_used_set_of_names_gives_way() -> None:
    model = taught(image, 50)
    for nth in range(MOST_KINDS - 1):
        model.observe({f"invented{nth}": 1.0}, "A", "a1", 1.0, 1)
    taught(image, 1, model=model)
    model.observe({"one more": 1.0}, "A", "a1", 1.0, 1)
    kinds = model.statistics().kinds
    assert len(kinds) == MOST_KINDS
    assert "pixels, steps" in kinds
    assert "invented0" not in kinds


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_a_number_that_is_none_is_no_feature(value: float) -> None:
    model = taught(image, 100)
    assert model.work({"pixels": value, "steps": 20.0}) == model.work(None)
    model.observe({"pixels": value, "steps": 20.0}, "A", "a1", 1.0, 1)
    assert model.statistics().unmatched == 1


@pytest.mark.parametrize("seconds", [math.nan, math.inf])
def test_seconds_that_are_none_teach_nothing(seconds: float) -> None:
    model = taught(image, 100)
    before = model.statistics()
    assert model.observe({"pixels": 1.0, "steps": 1.0}, "B", "b1", seconds, 1) == 1.0
    assert model.statistics() == before


FLEET: tuple[Replica, ...] = (("A", "a1", 1.0), ("A", "a2", 1.0), ("A", "a3", 1.0), ("B", "b1", 3.0))


@pytest.mark.parametrize("draw", [plain, of_size(1.0), image])
def test_a_slow_gpu_is_found(draw: Draw) -> None:
    model = taught(draw, 300, fleet=FLEET)
    assert model.slowness("B", "b1") / model.slowness("A", "a1") == pytest.approx(3.0, rel=0.25)
    assert model.slowness("A", "a2") / model.slowness("A", "a1") == pytest.approx(1.0, rel=0.2)


def test_slowness_is_told_beside_the_typical_replica() -> None:
    model = taught(plain, 1000, fleet=FLEET)
    mean = sum(math.log(model.slowness(gpu, replica)) for gpu, replica, _ in FLEET) / len(FLEET)
    assert mean == pytest.approx(0.0, abs=0.1)
    # What the typical one (the geometric mean of the fleet) takes, and the mean of the noise.
    assert model.work(None) == pytest.approx(0.1 * 3.0**0.25 * math.exp(0.045), rel=0.15)


def test_a_new_replica_is_as_slow_as_its_gpu_model_and_a_new_model_as_the_fleet() -> None:
    model = taught(plain, 400, fleet=FLEET)
    assert model.slowness("B", "b2") == pytest.approx(model.slowness("B", "b1"), rel=0.2)
    assert model.slowness("C", "c1") == 1.0
    model.observe(None, "C", "c1", 0.1, 1)
    assert model.slowness("C", "c1") == pytest.approx(1.0, rel=0.3)  # one answer is not yet a speed


def test_a_gpu_model_is_remembered_when_its_last_replica_is_gone() -> None:
    model = taught(plain, 400, fleet=FLEET)
    before = model.slowness("B", "b1")
    model.forget("b1")
    model.forget("b1")
    assert "b1" not in model.statistics().replicas
    assert model.slowness("B", "b9") == pytest.approx(before, rel=0.2)


def test_a_replica_of_that_name_with_another_gpu_is_another_one() -> None:
    model = taught(plain, 400, fleet=FLEET)
    assert model.slowness("A", "b1") == pytest.approx(model.slowness("A", "a1"), rel=0.2)


@pytest.mark.parametrize("noise", [0.05, 0.3])
@pytest.mark.parametrize("factor", [3.0, 1 / 3])
@pytest.mark.parametrize("seed", range(3))
def test_a_changed_speed_is_learned_within_thirty_requests(noise: float, factor: float, seed: int) -> None:
    rng = random.Random(seed)
    model = CostModel()
    own = 0
    while own < 30:
        gpu, replica, slowness = rng.choice(FLEET)
        if model.statistics().observations >= 400 and replica == "a1":
            own += 1
            slowness *= factor
        model.observe(None, gpu, replica, slowness * math.exp(rng.gauss(0, noise)), 1)
    assert model.slowness("A", "a1") / model.slowness("A", "a2") == pytest.approx(factor, rel=0.25)
    assert model.slowness("B", "b1") / model.slowness("A", "a2") == pytest.approx(3.0, rel=0.25)


def test_a_fleet_that_becomes_slower_as_a_whole_shows_in_the_work() -> None:
    model = taught(plain, 400, fleet=FLEET)
    before, slowness = model.work(None), model.slowness("B", "b1")
    taught(lambda rng: ({}, 3.0 * plain(rng)[1]), 400, fleet=FLEET, model=model, seed=1)
    assert model.work(None) == pytest.approx(3.0 * before, rel=0.2)
    assert model.slowness("B", "b1") == pytest.approx(slowness, rel=0.2)


def test_a_replica_on_its_own_is_the_typical_one() -> None:
    model = taught(plain, 300)
    assert model.slowness("A", "a1") == pytest.approx(1.0, rel=0.1)
    assert model.work(None) == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_crowding_is_learned_and_taken_out_of_the_work(gamma: float) -> None:
    model = taught(plain, 1000, gamma=gamma)
    assert model.crowding == pytest.approx(gamma, abs=0.12)
    assert model.work(None) == pytest.approx(0.1 * math.exp(0.045), rel=0.2)


def test_crowding_that_does_not_vary_is_not_guessed() -> None:
    model = CostModel()
    rng = random.Random(0)
    for _ in range(500):
        model.observe(None, "A", "a1", math.exp(rng.gauss(0, 0.5)), 4)
    assert model.crowding < 0.05


def test_the_ratio_leaves_crowding_in_and_takes_size_and_slowness_out() -> None:
    model = taught(of_size(1.0), 600, fleet=FLEET, gamma=0.5)
    slowness = model.slowness("B", "b1")
    work = model.work({"size": 2.0})
    assert model.observe({"size": 2.0}, "B", "b1", 7.0, 4) == pytest.approx(7.0 / (work * slowness))


def test_the_spread_is_what_the_features_leave() -> None:
    assert taught(of_size(1.0), 500).spread == pytest.approx(0.2, rel=0.25)
    blind = taught(lambda rng: ({}, of_size(1.0)(rng)[1]), 500)
    assert blind.spread == pytest.approx(1.02, rel=0.25)


def test_a_person_can_read_what_was_learned() -> None:
    model = taught(image, 300, fleet=FLEET)
    statistics = model.statistics()
    kind = statistics.kinds["pixels, steps"]
    assert kind.in_use in {"power law", "additive"}
    assert "pixels" in kind.formula
    assert "steps" in kind.formula
    assert kind.error < 0.2
    assert kind.mean_error > 0.8
    assert sum(kind.shares.values()) == pytest.approx(1.0)
    assert kind.observations == statistics.observations == 300
    assert statistics.replicas.keys() == {"a1", "a2", "a3", "b1"}
    assert statistics.gpus["B"] > 2.0 * statistics.gpus["A"]
    assert json.loads(json.dumps(statistics._asdict()))["spread"] == statistics.spread


def test_a_power_law_reads_like_one() -> None:
    def draw(rng: random.Random) -> tuple[dict[str, float], float]:
        size = math.exp(rng.gauss(3, 1))
        return {"size": size}, 0.5 * size**2 * math.exp(rng.gauss(0, 0.05))

    kind = taught(draw, 300).statistics().kinds["size"]
    assert kind.in_use == "power law"
    seconds, _, power = kind.formula.partition(" s × size^")
    assert float(seconds) == pytest.approx(0.5, rel=0.15)
    assert float(power) == pytest.approx(2.0, abs=0.05)


def test_the_same_observations_give_the_same_model() -> None:
    assert taught(image, 200, fleet=FLEET).statistics() == taught(image, 200, fleet=FLEET).statistics()


def test_a_first_request_that_loads_the_model_is_soon_outweighed() -> None:
    def quick(rng: random.Random) -> tuple[dict[str, float], float]:
        features, seconds = of_size(1.0)(rng)
        return features, 0.1 * seconds

    errors = []
    for seed in range(10):
        model = CostModel()
        model.observe({"size": 1.0}, "A", "a1", 60.0, 1)
        taught(quick, 40, seed=seed, model=model)
        errors += [error_of(model, {"size": size}, 0.1 * size) for size in (3.0, 0.3)]
    assert sum(errors) / len(errors) < 0.25


def test_what_is_new_starts_at_what_is_known_however_far_the_fleet_has_moved() -> None:
    fleet: tuple[Replica, ...] = FLEET[:3]
    model = taught(plain, 300, fleet=fleet)
    for _ in range(2):  # slower as a whole, each time at once
        model = taught(lambda rng: ({}, 4.0 * plain(rng)[1]), 200, fleet=fleet, model=model)
        model = taught(lambda rng: ({}, 16.0 * plain(rng)[1]), 200, fleet=fleet, model=model)
    taught(lambda rng: ({}, 16.0 * plain(rng)[1]), 200, fleet=FLEET, model=model)
    expected = model.work(None)
    model.observe(None, "C", "c1", expected, 1)
    assert model.slowness("C", "c1") == pytest.approx(1.0, rel=0.2)
    model.observe(None, "B", "b2", expected * model.slowness("B", "b2"), 1)
    assert model.slowness("B", "b2") == pytest.approx(model.slowness("B", "b1"), rel=0.2)


def test_a_fleet_that_slows_down_little_by_little_is_not_taken_for_crowded() -> None:
    model = CostModel()
    rng = random.Random(0)
    for nth in range(1000):
        model.observe(None, "A", "a1", math.exp(0.004 * nth + rng.gauss(0, 0.2)), 4)
    assert model.crowding < 0.02


def test_a_regression_follows_coefficients_that_change() -> None:
    regression = Regression([0.0, 0.0])
    rng = random.Random(0)
    for slope in (1.0, -1.0):
        for _ in range(1500):
            row = [1.0, rng.gauss(0, 1)]
            regression.learn(row, 0.5 + slope * row[1] + rng.gauss(0, 0.3) - regression.value(row))
        assert regression.coefficients == pytest.approx([0.5, slope], abs=0.15)


def test_the_first_without_features_is_expected_to_cost_the_mean_of_all() -> None:
    model = taught(image, 100)
    expected = model.work(None)
    assert model.observe(None, "A", "a1", 1.0, 1) == pytest.approx(1.0 / expected, rel=0.05)
