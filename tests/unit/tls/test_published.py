"""Which authority clients are told to trust."""

import logging
from pathlib import Path

import pytest

from muster.errors import SetupError
from muster.tls.authority import ca_pem
from muster.tls.published import published_ca
from tests.unit.tls.material import Operator, pem


def test_the_own_one_where_it_signs(tmp_path: Path) -> None:
    assert published_ca(None, tmp_path, uses_own=True)() == ca_pem(tmp_path)


def test_none_where_the_operators_certificate_is_from_one_that_everybody_knows(tmp_path: Path) -> None:
    assert published_ca(None, tmp_path, uses_own=False)() is None
    assert list(tmp_path.iterdir()) == []


def test_the_operators_file_as_it_is_now_and_as_it_last_was(
    tmp_path: Path, operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    tell = published_ca(operator.ca, tmp_path, uses_own=False)
    first = pem(operator.own).decode()
    assert tell() == first
    operator.ca.write_text(first + first)
    assert tell() == first + first
    with caplog.at_level(logging.WARNING):
        for content in (b"", b"no certificate", b"\xff"):
            operator.ca.write_bytes(content)
            assert tell() == first + first
        operator.ca.unlink()
        assert tell() == first + first
    assert len(caplog.records) == 1
    operator.ca.write_text(first)
    assert tell() == first


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff"])
def test_there_must_be_something_to_begin_with(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SetupError, match=r"ca\.pem: (there is no such file|holds no certificate in PEM form)"):
        published_ca(path, tmp_path, uses_own=False)
