"""What a person types for a gateway, before anything is started."""

from pathlib import Path

import pytest

from muster.errors import SetupError
from muster.processes.gateway import Asked

REGISTRY = "file:///nowhere"


def test_a_broker_that_asks_for_a_token_is_not_gone_without_for_ever(tmp_path: Path) -> None:
    flags = {"registry": REGISTRY, "broker": "tls://a.lab:7690"}
    with pytest.raises(
        SetupError, match=r"--broker: tls://a\.lab:7690 asks for a token: use --token-file, or set MUSTER"
    ):
        Asked(None, flags).read()
    assert Asked(None, flags, token="s3cret").read()[0].broker == "tls://a.lab:7690"
    file = tmp_path / "gateway.toml"
    file.write_text(f'registry = "{REGISTRY}"\nbroker = "tls://a.lab:7690"\n')
    with pytest.raises(SetupError, match=r"gateway\.toml: broker: tls://a\.lab:7690 asks"):
        Asked(file, {}).read()


def test_a_socket_lets_in_who_may_open_it() -> None:
    assert Asked(None, {"registry": REGISTRY, "broker": "unix:///run/broker"}).read()[0].broker == "unix:///run/broker"


def test_what_is_no_address_of_a_broker_is_said_of_the_option() -> None:
    with pytest.raises(SetupError, match=r"^--broker: 'a\.lab:7690' is no address of a broker: write tls://HOST:7690"):
        Asked(None, {"registry": REGISTRY, "broker": "a.lab:7690"}).read()
