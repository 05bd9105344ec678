"""The Redis registry keeps the registry's promises, against a real Redis."""

import itertools
from collections.abc import Iterator

import pytest

from muster.model.endpoint import ServiceKey
from muster.registry import connect, names
from muster.testing.conformance.registry import OpenRegistry, PutForeign, RegistryConformance
from tests.servers.redis import RedisServer

_prefixes = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return f"test{next(_prefixes)}"


@pytest.mark.slow
class TestRedisRegistry(RegistryConformance):
    @pytest.fixture
    def open_registry(self, server: RedisServer, prefix: str) -> OpenRegistry:
        return lambda: connect(f"{server.url}?prefix={prefix}")

    @pytest.fixture
    def put_foreign(self, server: RedisServer, prefix: str) -> PutForeign:
        def put(key: ServiceKey) -> None:
            path = names.relative_path(key).removesuffix(".json")
            server.cli("SET", f"{prefix}:set:{path}", '{"hosts":["10.0.0.1"]}')

        return put
