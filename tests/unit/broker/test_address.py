"""Where brokers listen, as people write it."""

import pytest

from muster.broker.address import Address, read_address
from muster.errors import InvalidSpec


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("tls://muster.lab:7690", Address("tls", "muster.lab", 7690)),
        ("tls://muster.lab", Address("tls", "muster.lab", 7690)),
        ("tcp://127.0.0.1:0", Address("tcp", "127.0.0.1", 0)),
        ("tls://[::1]:7690", Address("tls", "::1", 7690)),
        ("unix:///run/a b.sock", Address("unix", path="/run/a b.sock")),
    ],
)
def test_an_address_is_read_and_written_back(written: str, address: Address) -> None:
    assert read_address(written) == address
    assert read_address(address.url) == address


@pytest.mark.parametrize(
    "written",
    [
        "",
        "7690",
        "muster.lab:7690",
        "http://muster.lab",
        "tls://:7690",
        "tls://a:99999",
        "tls://a/b",
        "tls://u:p@a",
        "unix://a",
    ],
)
def test_anything_else_is_told_what_to_write(written: str) -> None:
    with pytest.raises(InvalidSpec, match=r"listen: .*write tls://HOST:7690"):
        read_address(written)


def test_it_is_known_who_can_reach_it() -> None:
    local = ("tcp://127.0.0.1", "tcp://[::1]", "tcp://localhost", "unix:///a")
    assert all(read_address(each).is_local for each in local)
    assert not any(read_address(each).is_local for each in ("tcp://10.0.0.7", "tcp://0.0.0.0", "tcp://muster.lab"))
    assert all(read_address(each).is_everywhere for each in ("tls://0.0.0.0", "tls://[::]"))
    assert not any(read_address(each).is_everywhere for each in (*local, "tls://muster.lab"))
