"""Real servers of a test's own, on loopback."""

import os
import shutil

import pytest


def require(*programs: str) -> None:
    """Skip the test where a program is missing; in CI that is a failure, since CI installs them all."""
    missing = [each for each in programs if shutil.which(each) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"no {', '.join(missing)} on this machine: run `scripts/servers ensure`")
