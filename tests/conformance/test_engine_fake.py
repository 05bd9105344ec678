"""The fake engine keeps the engine's promises, so that what is tested on it holds on a real one."""

import pytest

from muster.clock import SystemClock
from muster.engine.port import Capabilities
from muster.testing.conformance.engine import EngineConformance, OpenEngine
from muster.testing.conformance.images import IMPOSSIBLE, ImageConformance
from muster.testing.conformance.reuse import ReuseConformance
from muster.testing.fake_engine import FakeEngine, FakeWorld


class TestFakeEngine(ImageConformance, ReuseConformance, EngineConformance):
    runs_shell = False

    @pytest.fixture
    def open_engine(self) -> OpenEngine:
        world = FakeWorld(SystemClock())
        world.reject_image(IMPOSSIBLE)
        capabilities = Capabilities(
            shares_host_ports=True, isolates_tenants=True, has_images=True, reuses_containers=True
        )
        return lambda name: FakeEngine(world, installation=name, capabilities=capabilities)
