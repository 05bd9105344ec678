"""The etcd registry keeps the registry's promises, against a real etcd."""

import itertools
from collections.abc import Iterator

import pytest

from muster.model.endpoint import ServiceKey
from muster.registry import connect
from muster.testing.conformance.registry import OpenRegistry, PutForeign, RegistryConformance
from tests.servers.etcd import EtcdServer

_PREFIXES = (f"/muster{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.mark.slow
class TestEtcdRegistry(RegistryConformance):
    @pytest.fixture
    def prefix(self) -> str:
        return next(_PREFIXES)

    @pytest.fixture
    def open_registry(self, etcd: EtcdServer, prefix: str) -> OpenRegistry:
        return lambda: connect(f"{etcd.url}?prefix={prefix}")

    @pytest.fixture
    def put_foreign(self, etcd: EtcdServer, prefix: str) -> PutForeign:
        def put(key: ServiceKey) -> None:
            etcd.ctl("put", f"{prefix}/set/{key.account}/{key.service}/{key.port}", '{"hosts":["10.0.0.1"]}')

        return put
