"""Which certificate is shown, by real connections: ours, the operator's, and the next one in time."""

import asyncio
import datetime
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from muster.clock import SystemClock
from muster.errors import SetupError
from muster.tls import certificate as module
from muster.tls.authority import ensure_authority
from muster.tls.certificate import Certificates
from tests.unit.tls.material import (
    DAY,
    NOW,
    Key,
    Operator,
    connected,
    ec_key,
    echoing,
    key_pem,
    pem,
    rsa_key,
    trusting,
)


def own(home: Path, *names: str) -> Certificates:
    return Certificates.open(home, names=names, certificate=None, key=None)


def given(home: Path, operator: Operator, *names: str) -> Certificates:
    return Certificates.open(home, names=names, certificate=operator.certificate, key=operator.key)


def garble(operator: Operator) -> None:
    key = ec_key()
    operator.install(operator.unreadable(key), key=key)


def shown(home: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((home / "tls" / "server.pem").read_bytes())


class TestOwnAuthority:
    @pytest.mark.parametrize(
        ("name", "is_accepted"),
        [
            ("127.0.0.1", True),
            ("::1", True),
            ("localhost", True),
            ("gpu.lab", True),
            ("10.1.2.3", True),
            ("0123456789-a1b2c3d4e5-00112233aa-6006.pods.lab", True),
            ("pods.lab", False),
            ("other.lab", False),
            ("10.1.2.4", False),
        ],
    )
    def test_clients_that_trust_the_authority_accept_its_names_and_no_others(
        self, tmp_path: Path, name: str, is_accepted: bool
    ) -> None:
        async def scenario() -> None:
            certificates = own(tmp_path, "gpu.lab", "10.1.2.3", "*.pods.lab")
            trust = trusting(tmp_path / "tls" / "ca.pem")
            async with echoing(certificates.context) as port:
                if is_accepted:
                    async with connected(port, trust, name=name) as talk:
                        assert await talk.echoes()
                        assert (talk.version, talk.protocol) == ("TLSv1.3", None)
                    return
                with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
                    async with connected(port, trust, name=name):
                        pass

        asyncio.run(scenario())

    def test_the_certificate_is_kept_across_restarts_while_it_does(self, tmp_path: Path) -> None:
        own(tmp_path, "gpu.lab", "10.0.0.1")
        first = shown(tmp_path)
        again = own(tmp_path, "10.0.0.1")
        assert shown(tmp_path) == first
        assert again.expires_at == first.not_valid_after_utc
        assert datetime.timedelta(days=89) < again.expires_at - NOW <= datetime.timedelta(days=90, hours=1)
        own(tmp_path, "gpu.lab", "new.lab")
        assert shown(tmp_path) != first

    @pytest.mark.parametrize("name", ["server.pem", "server.key", "ca.key"])
    def test_what_is_amiss_with_its_files_is_mended_by_another(self, tmp_path: Path, name: str) -> None:
        own(tmp_path)
        first = shown(tmp_path)
        if name == "ca.key":  # the whole authority is another one
            (tmp_path / "tls" / "ca.pem").unlink()
        (tmp_path / "tls" / name).unlink()
        own(tmp_path)
        second = shown(tmp_path)
        assert second != first
        second.verify_directly_issued_by(ensure_authority(tmp_path).certificate)

    def test_it_is_renewed_when_a_third_of_its_life_is_left(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            certificates = own(tmp_path)
            first = certificates.expires_at
            await certificates.look(NOW + 59 * DAY)
            assert certificates.expires_at == first
            await certificates.look(NOW + 61 * DAY)
            assert certificates.expires_at == NOW + 151 * DAY
            assert shown(tmp_path).not_valid_after_utc == certificates.expires_at
            assert certificates.problem == ""

        asyncio.run(scenario())

    def test_a_name_that_comes_later_is_added_and_connections_go_on(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            certificates = own(tmp_path)
            trust = trusting(tmp_path / "tls" / "ca.pem")
            async with echoing(certificates.context) as port, connected(port, trust) as before:
                certificates.add_names(["172.17.0.1", "localhost"])
                async with connected(port, trust, name="172.17.0.1") as after:
                    assert await after.echoes()
                    assert after.certificate != before.certificate
                assert await before.echoes()
                now_shown = shown(tmp_path)
                certificates.add_names(["172.17.0.1"])
                assert shown(tmp_path) == now_shown

        asyncio.run(scenario())

    def test_a_renewal_that_fails_keeps_the_certificate_and_is_told_until_it_works(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def scenario() -> None:
            certificates = own(tmp_path)
            first = certificates.expires_at
            key = tmp_path / "tls" / "ca.key"
            content = key.read_bytes()
            key.unlink()
            certificates.add_names(["new.lab"])
            assert "ca.key: is gone" in certificates.problem
            for _ in range(3):
                await certificates.look(NOW + DAY)
            assert "ca.key: is gone" in certificates.problem
            assert certificates.expires_at == first
            key.write_bytes(content)
            key.chmod(0o600)
            await certificates.look(NOW + DAY)
            assert certificates.problem == ""
            assert certificates.expires_at > first

        with caplog.at_level(logging.WARNING):
            asyncio.run(scenario())
        assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 2

    def test_a_name_that_is_none_is_refused_at_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError, match="'exa mple': is neither a host name nor an IP address"):
            own(tmp_path, "exa mple")


class TestTheOperatorsFiles:
    def test_they_are_shown_with_their_chain(self, tmp_path: Path, operator: Operator) -> None:
        async def scenario() -> None:
            key = rsa_key()
            made = operator.signed(key, "gpu.lab")
            operator.install(made, operator.own, key=key)
            certificates = given(tmp_path, operator)
            assert certificates.expires_at == made.not_valid_after_utc
            async with (
                echoing(certificates.context) as port,
                connected(port, trusting(operator.ca, is_strict=False), name="gpu.lab") as talk,
            ):
                assert talk.certificate == made
                assert await talk.echoes()

        asyncio.run(scenario())
        assert not (tmp_path / "tls").exists()

    def test_one_file_may_hold_both(self, tmp_path: Path, operator: Operator) -> None:
        key = ec_key()
        both = tmp_path / "both.pem"
        both.write_bytes(pem(operator.signed(key)) + key_pem(key))
        both.chmod(0o600)
        assert Certificates.open(tmp_path, names=(), certificate=both, key=both).problem == ""

    @pytest.mark.parametrize(
        ("spoil", "says"),
        [
            (lambda it: it.certificate.unlink(), r"cert\.pem: there is no such file"),
            (lambda it: it.key.unlink(), r"key\.pem: there is no such file"),
            (lambda it: (it.key.unlink(), it.key.mkdir()), r"key\.pem: cannot be read: Is a directory"),
            (lambda it: it.key.chmod(0o644), r"key\.pem: others may read the key in it; run: chmod 600 .*key\.pem"),
            (lambda it: it.key.write_bytes(key_pem(ec_key())), r"key\.pem: does not match the certificate in .*cert"),
            (lambda it: it.key.write_bytes(key_pem(rsa_key())), r"key\.pem: does not match the certificate in .*cert"),
            (lambda it: it.key.write_bytes(key_pem(ec_key(), b"pw")), r"key\.pem: the key is encrypted"),
            (lambda it: it.key.write_bytes(b"no key"), r"key\.pem: holds no private key in PEM form"),
            (lambda it: it.certificate.write_bytes(b"\x30\x82"), r"cert\.pem: holds no certificate in PEM form"),
            (lambda it: it.certificate.write_bytes(b""), r"cert\.pem: holds no certificate in PEM form"),
            (lambda it: it.renew(ends=NOW - DAY / 2), r"cert\.pem: expired on \d{4}-\d\d-\d\d \d\d:\d\d UTC"),
            (lambda it: it.renew(begins=NOW + DAY), r"cert\.pem: is not valid before \d{4}"),
            (
                lambda it: it.certificate.write_bytes(pem(it.own) + it.certificate.read_bytes()),
                r"cert\.pem: the server's own certificate must come first",
            ),
            (garble, r"cert\.pem: is not a certificate that can be used"),
            (lambda it: it.renew(rsa_key(1024)), r"cert\.pem: OpenSSL refuses it: EE_KEY_TOO_SMALL"),
        ],
    )
    def test_what_is_wrong_with_them_is_said_in_one_line_at_the_start(
        self, tmp_path: Path, operator: Operator, spoil: Callable[[Operator], object], says: str
    ) -> None:
        operator.renew()
        spoil(operator)
        with pytest.raises(SetupError, match=says) as caught:
            given(tmp_path, operator)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("missing", ["certificate", "key"])
    def test_one_without_the_other_is_refused(self, tmp_path: Path, operator: Operator, missing: str) -> None:
        operator.renew()
        files = {"certificate": operator.certificate, "key": operator.key, missing: None}
        with pytest.raises(SetupError, match="a certificate needs its key"):
            Certificates.open(tmp_path, names=(), certificate=files["certificate"], key=files["key"])

    @pytest.mark.parametrize("new_key", [ec_key, rsa_key])
    def test_a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on(
        self, tmp_path: Path, operator: Operator, new_key: Callable[[], Key]
    ) -> None:
        async def scenario() -> None:
            old = operator.renew()
            certificates = given(tmp_path, operator)
            trust = trusting(operator.ca, is_strict=False)
            async with echoing(certificates.context) as port, connected(port, trust) as before:
                new = operator.renew(new_key())
                await certificates.look(NOW)
                async with connected(port, trust) as meanwhile:
                    assert meanwhile.certificate == old, "it has to stand still for one look"
                await certificates.look(NOW)
                async with connected(port, trust) as after:
                    assert after.certificate == new
                    assert await after.echoes()
                assert await before.echoes()
                assert before.certificate == old
            assert certificates.expires_at == new.not_valid_after_utc
            assert certificates.problem == ""

        asyncio.run(scenario())

    def test_a_broken_one_keeps_the_old_in_force_and_is_told_once(
        self, tmp_path: Path, operator: Operator, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def scenario() -> None:
            old = operator.renew()
            certificates = given(tmp_path, operator)
            trust = trusting(operator.ca, is_strict=False)
            async with echoing(certificates.context) as port:
                operator.key.write_bytes(key_pem(ec_key()))
                for _ in range(5):
                    await certificates.look(NOW)
                assert "key.pem: does not match" in certificates.problem
                assert "in force stays the certificate that ends at" in certificates.problem
                async with connected(port, trust) as talk:
                    assert talk.certificate == old
                new = operator.renew()
                await certificates.look(NOW)
                assert certificates.problem
                await certificates.look(NOW)
                assert certificates.problem == ""
                async with connected(port, trust) as talk:
                    assert talk.certificate == new

        with caplog.at_level(logging.WARNING):
            asyncio.run(scenario())
        assert ["key.pem: does not match" in each.getMessage() for each in caplog.records] == [True]

    def test_one_that_is_not_valid_yet_is_taken_when_it_is(self, tmp_path: Path, operator: Operator) -> None:
        async def scenario() -> None:
            operator.renew()
            certificates = given(tmp_path, operator)
            new = operator.renew(begins=NOW + DAY, ends=NOW + 200 * DAY)
            for _ in range(2):
                await certificates.look(NOW)
            assert "is not valid before" in certificates.problem
            await certificates.look(NOW + 2 * DAY)
            assert certificates.problem == ""
            assert certificates.expires_at == new.not_valid_after_utc

        asyncio.run(scenario())

    def test_one_that_nobody_renewed_is_told_when_it_has_expired(self, tmp_path: Path, operator: Operator) -> None:
        async def scenario() -> None:
            operator.renew()
            certificates = given(tmp_path, operator)
            await certificates.look(NOW + 91 * DAY)
            assert certificates.problem.startswith("the certificate expired at")

        asyncio.run(scenario())

    def test_a_change_behind_a_link_is_seen(self, tmp_path: Path, operator: Operator) -> None:
        async def scenario() -> None:
            operator.renew()
            link = tmp_path / "live"
            link.symlink_to(operator.certificate.parent)
            certificates = Certificates.open(tmp_path, names=(), certificate=link / "cert.pem", key=link / "key.pem")
            (tmp_path / "next").mkdir()
            successor = Operator(tmp_path / "next")
            new = successor.renew(ends=NOW + 33 * DAY)
            link.unlink()
            link.symlink_to(tmp_path / "next")
            for _ in range(2):
                await certificates.look(NOW)
            assert certificates.expires_at == new.not_valid_after_utc

        asyncio.run(scenario())

    def test_names_that_it_is_not_valid_for_are_told(
        self, tmp_path: Path, operator: Operator, caplog: pytest.LogCaptureFixture
    ) -> None:
        operator.renew()
        certificates = given(tmp_path, operator, "127.0.0.1", "gpu.lab")
        certificates.add_names(["172.17.0.1"])
        said = [each.getMessage() for each in caplog.records]
        assert [each.partition("cert.pem: ")[2] for each in said] == [
            "is not valid for gpu.lab: clients will refuse these addresses",
            "is not valid for 172.17.0.1: clients will refuse these addresses",
        ]


def test_it_looks_by_itself_while_it_runs(tmp_path: Path, operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.005)

    async def scenario() -> None:
        operator.renew()
        certificates = given(tmp_path, operator)
        running = asyncio.create_task(certificates.run(SystemClock()))
        new = operator.renew(ends=NOW + 50 * DAY)
        async with asyncio.timeout(10):
            while certificates.expires_at != new.not_valid_after_utc:  # noqa: ASYNC110 the level is another task's
                await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(scenario())


class TestProtocol:
    @pytest.mark.parametrize("offered", [("http/1.1",), ("h2", "http/1.1")])
    def test_http_1_1_is_chosen_where_it_is_offered(self, tmp_path: Path, offered: tuple[str, ...]) -> None:
        async def scenario() -> None:
            certificates = own(tmp_path)
            trust = trusting(tmp_path / "tls" / "ca.pem")
            trust.set_alpn_protocols(list(offered))
            async with echoing(certificates.context) as port, connected(port, trust) as talk:
                assert talk.protocol == "http/1.1"

        asyncio.run(scenario())

    @pytest.mark.parametrize(
        ("flags", "is_accepted", "says"),
        [
            (("-tls1_3",), True, "TLSv1.3"),
            (("-tls1_2",), True, "TLSv1.2"),
            (("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"), False, "Cipher is (NONE)"),
            (("-tls1_2", "-cipher", "AES128-GCM-SHA256"), False, "Cipher is (NONE)"),
            (("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"), False, "Cipher is (NONE)"),
            (("-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"), True, "Compression: NONE"),
        ],
    )
    def test_openssl_is_accepted_with_forward_secret_ciphers_of_tls_1_2_and_1_3_only(
        self, tmp_path: Path, flags: tuple[str, ...], is_accepted: bool, says: str
    ) -> None:
        async def scenario() -> None:
            certificates = own(tmp_path)
            async with echoing(certificates.context) as port:
                authority = ("-CAfile", str(tmp_path / "tls" / "ca.pem"), "-x509_strict", "-verify_return_error")
                process = await asyncio.create_subprocess_exec(
                    *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", *authority, *flags),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                )
                said, _ = await asyncio.wait_for(process.communicate(), 20)
                assert (process.returncode == 0) is is_accepted, said.decode()
                assert says in said.decode()

        asyncio.run(scenario())

    def test_plaintext_is_closed(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with echoing(own(tmp_path).context) as port:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = await asyncio.wait_for(reader.read(), 10)
                assert not answer.startswith(b"HTTP")
                writer.close()

        asyncio.run(scenario())

    def test_a_session_is_resumed_until_the_certificate_is_replaced(self, tmp_path: Path) -> None:
        """In a thread, because only blocking sockets let a client hand a session in."""

        def ask(port: int, trust: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
            import socket  # noqa: PLC0415

            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
                trust.wrap_socket(raw, server_hostname="127.0.0.1", session=session) as talk,
            ):
                talk.sendall(b"hello\n")
                assert talk.recv(100) == b"hello\n"
                return bool(talk.session_reused), talk.session

        async def scenario() -> None:
            certificates = own(tmp_path)
            trust = trusting(tmp_path / "tls" / "ca.pem")
            async with echoing(certificates.context) as port:
                _, session = await asyncio.to_thread(ask, port, trust, None)
                is_reused, _ = await asyncio.to_thread(ask, port, trust, session)
                assert is_reused
                certificates.add_names(["later.lab"])
                is_reused, _ = await asyncio.to_thread(ask, port, trust, session)
                assert not is_reused

        asyncio.run(scenario())

    def test_the_users_callback_learns_the_name_before_and_after_a_replacement(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            certificates = own(tmp_path, "*.pods.lab")
            asked: list[str | None] = []
            certificates.context.sni_callback = lambda _connection, name, _context: asked.append(name)
            trust = trusting(tmp_path / "tls" / "ca.pem")
            async with echoing(certificates.context) as port:
                async with connected(port, trust, name="a-6006.pods.lab"):
                    pass
                certificates.add_names(["later.lab"])
                async with connected(port, trust, name="later.lab"):
                    pass
            assert asked == ["a-6006.pods.lab", "later.lab"]

        asyncio.run(scenario())
