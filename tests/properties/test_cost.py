"""The learned cost under anything that anybody may send, and over many seeds."""

import math
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.balancer.cost import CostModel
from muster.balancer.regression import Regression

NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -1.0, 1.0, 5e-324, 1e-300, 1.7e308, -1.7e308, 1e12]),
    st.integers(-(10**20), 10**20).map(float),
)
SECONDS = st.one_of(st.floats(1e-6, 1e6), st.floats(allow_nan=True, allow_infinity=True))
FEATURES = st.none() | st.dictionaries(st.sampled_from("abc"), NUMBERS, max_size=3)
OBSERVATIONS = st.lists(
    st.tuples(
        FEATURES, st.sampled_from(["A", "B"]), st.sampled_from(["r1", "r2", "r3"]), SECONDS, st.integers(0, 10**6)
    ),
    max_size=40,
)


def sound(number: float) -> bool:
    return math.isfinite(number) and number > 0.0


@given(OBSERVATIONS, FEATURES)
def test_it_never_fails_and_always_tells_a_positive_number(observations: list, asked: dict | None) -> None:  # type: ignore[type-arg]
    model = CostModel()
    for features, gpu, replica, seconds, in_flight in observations:
        assert sound(model.work(features))
        assert sound(model.observe(features, gpu, replica, seconds, in_flight))
        assert sound(model.slowness(gpu, replica))
        assert 0.0 <= model.crowding <= 1.0
        assert sound(model.spread)
    assert sound(model.work(asked))
    model.statistics()


@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.floats(1e-6, 1e6)), min_size=20, max_size=60), NUMBERS, NUMBERS)
def test_no_features_upset_a_model_that_uses_them(
    requests: list[tuple[float, float, float]], x: float, y: float
) -> None:
    model = CostModel()
    for one, other, seconds in requests:
        assert sound(model.observe({"x": one, "y": other}, "A", "r1", seconds, 1))
    shortest, longest = min(each[2] for each in requests), max(each[2] for each in requests)
    # 5 for extrapolating, and up to e³ for the mean of what is spread over six orders of magnitude and drifts.
    assert shortest / 100.0 <= model.work({"x": x, "y": y}) <= longest * 100.0
    model.statistics()


@given(st.data())
def test_the_covariance_of_a_regression_stays_one(data: st.DataObject) -> None:
    """Rows that never vary, or always together, wind an ordinary regression with forgetting up to infinity."""
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    size = data.draw(st.integers(1, 6))
    directions = data.draw(st.integers(0, size))
    basis = [[rng.gauss(0, 1) for _ in range(size)] for _ in range(directions)]
    regression = Regression([0.0] * size)
    for _ in range(data.draw(st.sampled_from([10, 100, 2000]))):
        weights = [rng.gauss(0, 1) for _ in basis]
        row = [1.0, *(sum(w * each[i] for w, each in zip(weights, basis, strict=True)) for i in range(1, size))]
        regression.learn(row, rng.gauss(0, 1))
    covariance = [[regression._factor * each for each in line] for line in regression._covariance]
    assert all(covariance[i][j] == covariance[j][i] for i in range(size) for j in range(i))
    assert all(0.0 < covariance[i][i] < 10.0 for i in range(size))
    probe = [rng.gauss(0, 1) for _ in range(size)]
    assert sum(a * covariance[i][j] * b for i, a in enumerate(probe) for j, b in enumerate(probe)) > 0.0


Draw = Callable[[random.Random, int], tuple[dict[str, float], float]]


def noise(count: int, spread: float) -> Draw:
    """Features that say nothing: some with sizes over five orders of magnitude."""
    return lambda rng, nth: (
        {f"f{i}": math.exp(rng.gauss(0, 2)) for i in range(count)},
        0.1 * math.exp(rng.gauss(0, spread)),
    )


def constant(rng: random.Random, nth: int) -> tuple[dict[str, float], float]:
    return {"x": 3.0, "y": 0.0, "z": -2.0}, math.exp(rng.gauss(0, 0.7))


def wild(rng: random.Random, nth: int) -> tuple[dict[str, float], float]:
    x = rng.choice([0.0, -1e12, 1.7e308, 1e-300, 5.0])
    return {"x": x, "y": rng.choice([0.0, 1e12]) * rng.random()}, math.exp(rng.gauss(0, 0.7))


def inverted(rng: random.Random, nth: int) -> tuple[dict[str, float], float]:
    size = rng.gauss(0, 1)
    return {"x": math.exp(size if nth % 1000 < 500 else -size)}, math.exp(size + rng.gauss(0, 0.3))


def collinear(rng: random.Random, nth: int) -> tuple[dict[str, float], float]:
    x = math.exp(rng.gauss(0, 1))
    return {"x": x, "twice": 2.0 * x, "squared": x * x}, math.exp(rng.gauss(0, 0.7))


@pytest.mark.parametrize(
    "draw",
    [noise(1, 0.3), noise(4, 0.05), noise(4, 1.0), noise(16, 0.7), constant, wild, inverted, collinear],
    ids=["noise 1", "noise 4 of a steady cost", "noise 4", "noise 16", "constant", "wild", "inverted", "collinear"],
)
def test_features_never_do_harm(draw: Draw) -> None:
    """The error before learning is at most 3 % above that of a model that sees no features, whatever the seed."""
    for seed in range(10):
        rng = random.Random(seed)
        model, blind = CostModel(), CostModel()
        squares = [0.0, 0.0]
        for nth in range(2000 if seed < 2 else 700):
            features, seconds = draw(rng, nth)
            squares[0] += math.log(model.observe(features, "A", "r1", seconds, 1)) ** 2
            squares[1] += math.log(blind.observe(None, "A", "r1", seconds, 1)) ** 2
        assert math.sqrt(squares[0] / squares[1]) <= 1.03


def ranks(numbers: list[float]) -> list[int]:
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    found = [0] * len(numbers)
    for rank, index in enumerate(order):
        found[index] = rank
    return found


@pytest.mark.parametrize("others", [0, 3])
def test_a_noisy_feature_orders_the_requests(others: int) -> None:
    """A feature with r = 0.9 to the log of the work, among others that say nothing, orders like the feature itself."""

    def draw(rng: random.Random) -> tuple[dict[str, float], float]:
        size = rng.gauss(0, 1)
        seen = 0.9 * size + math.sqrt(1.0 - 0.81) * rng.gauss(0, 1)
        useless = {f"noise{i}": math.exp(rng.gauss(0, 1)) for i in range(others)}
        return {"seen": 1e9 * math.exp(seen), **useless}, 0.1 * math.exp(size)

    for seed in range(10):
        rng = random.Random(seed)
        model = CostModel()
        for _ in range(100):
            features, seconds = draw(rng)
            model.observe(features, "A", "r1", seconds, 1)
        asked = [draw(rng) for _ in range(1000)]
        expected = ranks([model.work(features) for features, _ in asked])
        true = ranks([seconds for _, seconds in asked])
        squares = sum((one - other) ** 2 for one, other in zip(expected, true, strict=True))
        assert 1.0 - 6.0 * squares / (1000 * (1000**2 - 1)) >= 0.85 - 0.02 * others / 3


@pytest.mark.parametrize("seed", range(5))
def test_work_and_slowness_do_not_drift_apart(seed: int) -> None:
    """Only their product is seen; over 5,000 requests of a mix that changes, neither runs away with the other."""
    rng = random.Random(seed)
    model = CostModel()
    fleet = (("A", "a1", 1.0), ("A", "a2", 1.0), ("B", "b1", 3.0))
    worked = []
    for nth in range(5000):
        gpu, replica, slowness = rng.choice(fleet)
        mix = 1.0 if (nth // 500) % 2 else 2.0
        model.observe(None, gpu, replica, mix * slowness * math.exp(rng.gauss(0, 0.3)), 1)
        if nth % 1000 == 999:
            worked.append(model.work(None))
    assert all(abs(math.log(after / before)) < 0.3 for before, after in pairwise(worked))
    level = sum(math.log(model.slowness(gpu, replica)) for gpu, replica, _ in fleet) / 3
    assert abs(level) < 0.15
    assert model.slowness("B", "b1") / model.slowness("A", "a1") == pytest.approx(3.0, rel=0.25)
