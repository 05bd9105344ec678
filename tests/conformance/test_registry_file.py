"""The file registry keeps the registry's promises."""

from pathlib import Path

import pytest

from muster.model.endpoint import ServiceKey
from muster.registry import connect
from muster.testing.conformance.registry import OpenRegistry, PutForeign, RegistryConformance


class TestFileRegistry(RegistryConformance):
    @pytest.fixture
    def open_registry(self, tmp_path: Path) -> OpenRegistry:
        return lambda: connect(f"file://{tmp_path}/registry")

    @pytest.fixture
    def put_foreign(self, tmp_path: Path) -> PutForeign:
        def put(key: ServiceKey) -> None:
            path = tmp_path / "registry" / key.account / key.service / f"{key.port}.json"
            path.parent.mkdir(parents=True)
            path.write_text('{"hosts":["10.0.0.1"]}')

        return put
