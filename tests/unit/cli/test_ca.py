"""``ca``: what people are given to trust, and how they compare it."""

import contextlib
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.cli.main import run
from muster.tls.authority import ca_pem
from tests.unit.cli.served import Served


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served") / "home") as served:
        yield served


@pytest.fixture
def server(shared: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    for name in [name for name in os.environ if name.startswith("MUSTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MUSTER_HOME", str(shared.home))
    shared.ca_pem = ca_pem(shared.home)
    return shared


def said(*args: str, code: int = 0) -> tuple[str, str]:
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        assert run(args) == code
    return output.getvalue(), errors.getvalue()


def test_export_prints_the_certificate_and_nothing_else(server: Served) -> None:
    assert said("ca", "export") == (server.ca_pem, "")


def test_export_writes_a_file_and_replaces_none_unless_told(server: Served, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    assert said("ca", "export", "--out", str(path)) == ("", f"wrote {path}\n")
    assert path.read_text() == server.ca_pem
    path.write_text("mine")
    assert said("ca", "export", "--out", str(path), code=1)[1] == (
        f"error: {path}: exists already; replace it with --force\n"
    )
    assert path.read_text() == "mine"
    said("ca", "export", "--out", str(path), "-f")
    assert path.read_text() == server.ca_pem
    _, error = said("ca", "export", "--out", str(tmp_path / "none" / "ca.pem"), code=1)
    assert "cannot be written: No such file or directory" in error


def test_show_tells_what_openssl_tells(server: Served, tmp_path: Path) -> None:
    rows = json.loads(said("ca", "show", "-o", "json")[0])
    asked = ("-noout", "-subject", "-enddate", "-fingerprint", "-sha256", "-nameopt", "RFC2253", "-dateopt", "iso_8601")
    path = server.home / "tls" / "ca.pem"
    openssl = subprocess.run(["openssl", "x509", "-in", path, *asked], capture_output=True, text=True, check=True)
    told = dict(line.split("=", 1) for line in openssl.stdout.splitlines())
    (row,) = rows
    assert row["subject"] == told["subject"]
    assert row["sha256"] == told["sha256 Fingerprint"]
    assert row["expires_at"] == told["notAfter"].replace(" ", "T").replace("Z", "+00:00")
    table, _ = said("ca", "show")
    assert table.split() == [
        "SUBJECT",
        "EXPIRES",
        "SHA-256",
        *row["subject"].split(),
        told["notAfter"][:10],
        row["sha256"],
    ]


def test_a_bundle_shows_each_of_its_authorities(server: Served, tmp_path: Path) -> None:
    assert server.ca_pem is not None
    server.ca_pem += ca_pem(tmp_path)
    assert len(json.loads(said("ca", "show", "-o", "json")[0])) == 2


def test_where_none_is_needed_both_say_so(server: Served) -> None:
    server.ca_pem = None
    for verb in ("export", "show"):
        output, error = said("ca", verb, code=1)
        assert output == ""
        assert error == (
            "error: there is no authority to tell: either there is no ingress, or its certificate is the operator's, "
            "who named none in tls_ca because clients know it\n"
        )


def test_a_self_signed_servers_certificate_is_no_authority(server: Served) -> None:
    server.ca_pem = "nothing"
    assert said("ca", "show", code=1)[1] == "error: the server's answer holds no certificate\n"
