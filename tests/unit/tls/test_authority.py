"""The own authority: made once for all processes, kept, and never replaced behind anybody's back."""

import datetime
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from muster.errors import SetupError
from muster.tls.authority import BACKDATED, ca_pem, ensure_authority
from tests.unit.tls.material import NOW, ec_key, key_pem, rsa_key


def test_it_is_made_once_and_kept(tmp_path: Path) -> None:
    made = ensure_authority(tmp_path)
    again = ensure_authority(tmp_path)
    assert again.certificate == made.certificate
    assert again.key.private_numbers() == made.key.private_numbers()
    assert ca_pem(tmp_path) == made.pem == (tmp_path / "tls" / "ca.pem").read_text()


def test_whoever_only_asks_for_the_certificate_makes_it_too(tmp_path: Path) -> None:
    assert ca_pem(tmp_path) == ensure_authority(tmp_path).pem


def test_only_the_owner_may_read_the_key_and_everybody_the_certificate(tmp_path: Path) -> None:
    ensure_authority(tmp_path)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tls").iterdir()}
    assert modes == {"ca.key": 0o600, "ca.pem": 0o644}


def test_it_is_a_root_that_signs_servers_only_and_says_so_as_strict_verifiers_ask(tmp_path: Path) -> None:
    certificate = ensure_authority(tmp_path, now=NOW).certificate
    assert certificate.version is x509.Version.v3
    found = certificate.extensions
    basic = found.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    usage = found.get_extension_for_class(x509.KeyUsage)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.crl_sign) == (True, True, True)
    assert not usage.value.digital_signature
    subject_key = found.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuer_key = found.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert issuer_key.key_identifier == subject_key.digest
    assert ExtensionOID.NAME_CONSTRAINTS not in {each.oid for each in found}
    assert certificate.not_valid_before_utc == NOW - BACKDATED
    assert certificate.not_valid_after_utc - NOW == datetime.timedelta(days=3652)


def test_two_installations_have_different_names(tmp_path: Path) -> None:
    first, second = (ensure_authority(tmp_path / name).certificate.subject.rfc4514_string() for name in "ab")
    assert first != second
    assert first.startswith("CN=Muster ")
    assert first.endswith(" CA")


def test_whoever_is_first_at_the_same_time_makes_it_for_all(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: ensure_authority(tmp_path), range(24)))
    assert len({each.pem for each in made}) == 1
    assert sorted(path.name for path in (tmp_path / "tls").iterdir()) == ["ca.key", "ca.pem"]


def test_two_processes_agree(tmp_path: Path) -> None:
    ask = f"from pathlib import Path; from muster.tls.authority import ca_pem; print(ca_pem(Path({str(tmp_path)!r})))"
    asking = [subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE) for _ in range(3)]
    answers = {each.communicate(timeout=30)[0] for each in asking}
    assert len(answers) == 1
    assert b"BEGIN CERTIFICATE" in answers.pop()


def test_a_crash_between_the_two_files_is_mended(tmp_path: Path) -> None:
    key = ensure_authority(tmp_path).key
    (tmp_path / "tls" / "ca.pem").unlink()
    mended = ensure_authority(tmp_path)
    assert mended.key.private_numbers() == key.private_numbers()
    assert ca_pem(tmp_path) == mended.pem


def test_a_lost_key_is_told_and_nothing_is_made_in_its_place(tmp_path: Path) -> None:
    made = ensure_authority(tmp_path)
    (tmp_path / "tls" / "ca.key").unlink()
    with pytest.raises(SetupError, match=r"ca\.key: is gone; restore it, or remove .*ca\.pem too"):
        ensure_authority(tmp_path)
    assert ca_pem(tmp_path) == made.pem


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    ensure_authority(tmp_path)
    (tmp_path / "tls" / "ca.key").chmod(0o640)
    with pytest.raises(SetupError, match=r"others may read the key in it; run: chmod 600 .*ca\.key"):
        ensure_authority(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("ca.key", b"", "holds no key of ours"),
        ("ca.key", b"\xff", "is not PEM"),
        ("ca.key", key_pem(rsa_key()), "holds no key of ours"),
        ("ca.pem", b"", "holds no certificate authority of ours"),
        ("ca.key", key_pem(ec_key()), "ca.pem: does not belong to"),
    ],
)
def test_files_that_are_not_ours_are_told_by_name(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    ensure_authority(tmp_path)
    (tmp_path / "tls" / name).write_bytes(content)
    with pytest.raises(SetupError, match=says) as caught:
        ensure_authority(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_an_expired_one_is_told(tmp_path: Path) -> None:
    ensure_authority(tmp_path, now=NOW - datetime.timedelta(days=4000))
    with pytest.raises(SetupError, match=r"ca\.pem: expired on \d{4}-\d\d-\d\d; remove the folder"):
        ensure_authority(tmp_path)


def test_a_home_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("in the way")
    with pytest.raises(SetupError, match=r"ca\.key: cannot be written: "):
        ensure_authority(tmp_path)
