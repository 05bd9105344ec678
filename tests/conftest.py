"""How much the property tests try, and how long a test may take.

Property tests try a little while editing, the same every time in CI, a lot at night.

``deadline`` is off everywhere, and so is the check that examples are made fast enough: how long one takes says
something about the machine, not about the code. CI is derandomized, so that a run says something about the change and
nothing about luck; ``HYPOTHESIS_PROFILE=nightly`` looks for what nobody has thought of.

A test's time limit (``timeout`` of pyproject.toml) ends the whole run, so it is for what hangs, and never decides
before the deadlines of a test's waits, which say what was waited for. Tests of real processes have several of those.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.docker.fixtures"]

_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", _PATIENT)
settings.register_profile("ci", _PATIENT, derandomize=True, print_blob=True)
settings.register_profile("nightly", _PATIENT, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

_SLOW_SECONDS = 300
"""Several times what the deadlines of one slow test add up to, if it says nothing else itself."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every slow test that has no time limit of its own a longer one; tests with Docker are slow by then."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SLOW_SECONDS))
