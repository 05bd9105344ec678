"""The local engine keeps the engine's promises, with real processes."""

from pathlib import Path

import pytest

from muster.engine.local import LocalEngine
from muster.testing.conformance.engine import EngineConformance, OpenEngine


@pytest.mark.slow
class TestLocalEngine(EngineConformance):
    @pytest.fixture
    def open_engine(self, tmp_path: Path) -> OpenEngine:
        return lambda name: LocalEngine(tmp_path / "roots" / name)
