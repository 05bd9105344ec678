"""The fake engine keeps the engine's promises, so that what is tested on it holds on a real one."""

import pytest

from muster.clock import SystemClock
from muster.engine.port import Capabilities
from muster.testing.conformance.engine import EngineConformance, OpenEngine
from muster.testing.fake_engine import FakeEngine, FakeWorld


class TestFakeEngine(EngineConformance):
    runs_shell = False

    @pytest.fixture
    def open_engine(self) -> OpenEngine:
        world = FakeWorld(SystemClock())
        capabilities = Capabilities(shares_host_ports=True, isolates_tenants=True)
        return lambda name: FakeEngine(world, installation=name, capabilities=capabilities)
