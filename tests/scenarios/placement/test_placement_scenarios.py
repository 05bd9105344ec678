"""Every scenario prints what its golden file says."""

from pathlib import Path

import pytest

from tests.scenarios.placement.script import FOLDER, REGENERATE, Script

SCENARIOS = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_the_scenario_prints_its_golden_output(scenario: Path) -> None:
    printed = Script().run(scenario.read_text())
    golden = scenario.with_suffix(".out").read_text()
    assert printed == golden, f"if this change is meant, run `{REGENERATE}` and review the difference"


def test_no_golden_output_is_left_without_its_scenario() -> None:
    assert {path.stem for path in FOLDER.glob("*.out")} == {path.stem for path in SCENARIOS}
    assert SCENARIOS
