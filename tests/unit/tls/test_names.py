"""What a certificate is valid for."""

import ipaddress

import pytest
from cryptography import x509

from muster.errors import SetupError
from muster.tls.names import general_name, uncovered
from tests.unit.tls.material import Operator, ec_key


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("GPU.Example.com.", x509.DNSName("gpu.example.com")),
        ("*.gpu.example.com", x509.DNSName("*.gpu.example.com")),
        ("büro.example", x509.DNSName("xn--bro-hoa.example")),
        ("host", x509.DNSName("host")),
        ("10.1.2.3", x509.IPAddress(ipaddress.ip_address("10.1.2.3"))),
        ("[::1]", x509.IPAddress(ipaddress.ip_address("::1"))),
        ("fe80::1%eth0", x509.IPAddress(ipaddress.ip_address("fe80::1"))),
    ],
)
def test_names_are_held_as_clients_compare_them(name: str, held: x509.GeneralName) -> None:
    assert general_name(name) == held


@pytest.mark.parametrize("name", ["", "*", "a..b", "a*b.c", "*.*.c", "exa mple", "x" * 64, "host:443", "https://host"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(SetupError, match="neither a host name nor an IP address"):
        general_name(name)


@pytest.mark.parametrize(
    ("name", "is_covered"),
    [
        ("gpu.lab", True),
        ("GPU.lab.", True),
        ("a-6006.gpu.lab", True),
        ("*.gpu.lab", True),
        ("a.b.gpu.lab", False),
        ("lab", False),
        ("*.lab", False),
        ("10.0.0.1", True),
        ("10.0.0.2", False),
        ("::1", False),
    ],
)
def test_a_wildcard_stands_for_one_label_and_an_address_only_for_itself(
    operator: Operator, name: str, is_covered: bool
) -> None:
    certificate = operator.signed(ec_key(), "gpu.lab", "*.gpu.lab", "10.0.0.1")
    assert (uncovered(certificate, [general_name(name)]) == []) is is_covered


def test_a_certificate_without_names_is_valid_for_none(operator: Operator) -> None:
    assert uncovered(operator.own, [general_name("server")]) == [x509.DNSName("server")]
