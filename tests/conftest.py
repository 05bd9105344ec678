"""How much the property tests try: a little while editing, the same every time in CI, a lot at night.

``deadline`` is off everywhere: how long an example takes says something about the machine, not about the code. CI is
derandomized, so that a run says something about the change and nothing about luck; ``HYPOTHESIS_PROFILE=nightly``
looks for what nobody has thought of.
"""

import os

from hypothesis import settings

pytest_plugins = ["tests.docker.fixtures"]

settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("nightly", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))
