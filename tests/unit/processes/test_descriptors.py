"""The limit of open files, in a process of its own: what is lowered here cannot be raised again by everybody."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("soft", "hard", "least", "then"),
    [
        (100, 400, "", 400),
        (100, 400, "300", 300),
        (100, 400, "9999", 400),
        (200, 400, "150", 200),
        (400, 400, "", 400),
    ],
)
def test_it_is_raised_as_far_as_is_needed_and_the_system_lets_us_and_never_lowered(
    soft: int, hard: int, least: str, then: int
) -> None:
    script = (
        "import resource; from muster.processes import descriptors\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        f"print(descriptors.allow({least}), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    said = subprocess.run((sys.executable, "-c", script), capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.split() == [str(then), str(then), str(hard)]
