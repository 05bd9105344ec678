"""A registry URL opens a registry or is refused with what would be right."""

import asyncio

import pytest

from muster.errors import InvalidSpec
from muster.model.endpoint import ServiceKey
from muster.registry import connect
from muster.testing.conformance.registry import make_set


@pytest.mark.parametrize("url", ["", "digits", "/srv/registry", "reddis://localhost", "http://127.0.0.1:1"])
def test_an_unknown_scheme_is_refused_with_those_that_are_known(url: str) -> None:
    with pytest.raises(InvalidSpec, match=r"memory://, file://"):
        connect(url)


@pytest.mark.parametrize("url", ["file://registry/sub", "file:registry", "file://./registry"])
def test_a_relative_folder_is_refused_with_the_right_form(url: str) -> None:
    with pytest.raises(InvalidSpec, match="three slashes"):
        connect(url)


def test_a_memory_registry_is_shared_by_name_and_only_by_name() -> None:
    async def scenario() -> None:
        key = ServiceKey("admin", "s")
        await connect("memory://test-connect-one").publish(key, make_set("a"))
        assert await connect("memory://test-connect-one").get(key) == make_set("a")
        assert await connect("memory://test-connect-two").get(key) is None

    asyncio.run(scenario())


def test_a_memory_registry_has_no_path() -> None:
    with pytest.raises(InvalidSpec, match="no path"):
        connect("memory://name/path")


@pytest.mark.parametrize("url", ["memory://[", "file://[bad/x", "redis://[bad", "etcd://[bad", "muster+http://[bad"])
def test_what_is_no_url_at_all_is_refused(url: str) -> None:
    with pytest.raises(InvalidSpec):
        connect(url)
