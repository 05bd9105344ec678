"""The memory registry keeps the registry's promises."""

import secrets

import pytest

from muster.registry import connect
from muster.testing.conformance.registry import OpenRegistry, RegistryConformance


class TestMemoryRegistry(RegistryConformance):
    has_foreign_data = False

    @pytest.fixture
    def open_registry(self) -> OpenRegistry:
        url = f"memory://{secrets.token_hex(8)}"
        return lambda: connect(url)
