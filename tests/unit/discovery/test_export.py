"""Exports: what is written of a set, when, and when the command is run."""

import asyncio
import dataclasses
import datetime
import json
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self

import pytest

from muster.clock import Clock, SystemClock
from muster.discovery.export import Exporter
from muster.discovery.export_command import Debounced, run_command
from muster.discovery.export_templates import block_names, haproxy_block, nginx_block, read_service, title
from muster.errors import SetupError
from muster.model.deployment import PortProtocol
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey, Withheld
from muster.registry.memory import Memory, MemoryRegistry
from muster.testing.clock import FakeClock, VirtualLoop
from muster.tls.authority import ca_pem, ensure_authority

DIGITS = ServiceKey("admin", "digits")
LETTERS = ServiceKey("admin", "letters")
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
FOLDER = Path("/etc/proxy")


def published(*endpoints: Endpoint, revision: int = 1, ca: str | None = None) -> EndpointSet:
    return EndpointSet(1, revision, endpoints, published_at=NOW, ca_pem=ca)


def one(name: str, port: int = 20001, **more: Any) -> Endpoint:
    return Endpoint(name, f"http://127.0.0.1:{port}", **more)


def in_virtual_time(scenario: Callable[[FakeClock], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(scenario(FakeClock(loop)))
    finally:
        loop.close()


class Export:
    """An exporter at work on a registry of its own."""

    def __init__(self, output: Path | None, clock: Clock, *keys: ServiceKey, command: str | None = None) -> None:
        self.registry = MemoryRegistry(Memory())
        template = None if output is None else "haproxy"
        self._exporter = Exporter(self.registry, keys or None, clock, template=template, output=output, command=command)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._exporter.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._task


def test_a_haproxy_backend_has_a_line_for_each_endpoint() -> None:
    found = published(one("a", concurrency=8), Endpoint("b", "https://b.example:8443"), Endpoint("c", "http://[::1]"))
    assert haproxy_block(read_service("digits_6006", found, FOLDER)) == (
        "backend digits_6006\n"
        "    mode http\n"
        "    balance leastconn\n"
        "    server a 127.0.0.1:20001 maxconn 8 check\n"
        "    server b b.example:8443 check init-addr last,libc,none"
        " ssl verify required ca-file @system-ca sni str(b.example) check-sni b.example\n"
        "    server c [::1]:80 check\n"
    )


def test_haproxy_asks_each_container_by_its_own_name_where_names_tell_them_apart() -> None:
    found = published(*(Endpoint(each, f"https://{each}-6006.gpu.example:443") for each in "ab"))
    text = haproxy_block(read_service("digits_6006", found, FOLDER))
    assert "    http-send-name-header Host\n    server a-6006.gpu.example a-6006.gpu.example:443 check " in text
    assert text.endswith(" sni str(b-6006.gpu.example) check-sni b-6006.gpu.example  # b\n")


def test_an_nginx_upstream_counts_in_shared_memory_and_is_never_empty() -> None:
    assert nginx_block(read_service("digits_6006", published(one("a", concurrency=8), one("b", 1)), FOLDER)) == (
        "upstream digits_6006 {\n"
        "    zone digits_6006 256k;\n"
        "    server 127.0.0.1:20001 max_conns=8;  # a\n"
        "    server 127.0.0.1:1;  # b\n"
        "}\n"
    )
    assert nginx_block(read_service("digits_6006", published(), FOLDER)) == (
        "upstream digits_6006 {\n    server 127.0.0.1:1 down;  # nobody serves\n}\n"
    )


def test_raw_tcp_stays_tcp_when_nobody_serves() -> None:
    raw = Endpoint("a", "tcp://10.0.0.7:25001", PortProtocol.TCP)
    first = read_service("db_6006", published(raw), FOLDER)
    assert "    mode tcp\n" in haproxy_block(first)
    assert "    server a 10.0.0.7:25001 check\n" in haproxy_block(first)
    assert "    mode tcp\n" in haproxy_block(read_service("db_6006", published(), FOLDER, had_tcp=first.has_tcp))
    assert nginx_block(first).startswith("# ")


def test_the_authority_of_a_set_is_trusted_for_that_set(tmp_path: Path) -> None:
    ensure_authority(tmp_path)
    pem = ca_pem(tmp_path)
    found = published(Endpoint("a", "https://gpu1.lab:20001"), ca=f"{pem}\nssl_engine off;\n")
    service = read_service("digits_6006", found, FOLDER)
    assert service.ca == FOLDER / "digits_6006.ca.pem"
    assert service.ca_pem is not None
    assert service.ca_pem.split() == pem.split()
    assert "ssl verify required ca-file '/etc/proxy/digits_6006.ca.pem' sni" in haproxy_block(service)
    assert "# proxy_ssl_trusted_certificate '/etc/proxy/digits_6006.ca.pem';\n" in nginx_block(service)
    assert "# proxy_ssl_name gpu1.lab;\n" in nginx_block(service)


def test_an_authority_that_no_proxy_could_load_is_left_out() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    service = read_service("digits_6006", published(Endpoint("a", "https://gpu1.lab:1"), ca=pem), FOLDER)
    assert service.ca is None
    assert service.skipped == ("its ca_pem holds no certificates and is left out",)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1; include /etc/passwd;",
        "http://127.0.0.1:1\n    server evil 6.6.6.6:80",
        "http://127.0.0.1:1}",
        "http://a b:80",
        "http://user:secret@127.0.0.1:80",
        "http://127.0.0.1:80/path",
        "http://127.0.0.1:80?x=1",
        "http://127.0.0.1:80#x",
        "http://127.0.0.1:0",
        "http://127.0.0.1:65536",
        "http://127.0.0.1:８０",
        "http://机器:80",
        "http://unix:/run/x.sock",
        "unix:/run/x.sock",
        "http://$host:80",
        "http://[::1%eth0]:80",
        "http://[::1:80",
        "http://-a:80",
        "http://:80",
        "tcp://127.0.0.1:80",
        "ftp://127.0.0.1:80",
        "127.0.0.1:80",
        "",
    ],
)
def test_an_address_that_is_more_or_less_than_an_address_is_left_out(url: str) -> None:
    service = read_service("s_6006", published(Endpoint("bad", url), one("good")), FOLDER)
    assert [server.id for server in service.servers] == ["good"]
    [reason] = service.skipped
    assert reason.startswith("endpoint 'bad' is left out: ")
    assert "secret" not in reason


@pytest.mark.parametrize("bad", ["", "a b", "a;b", "a\nb", "a#b", "-a", "ä", "a" * 129])
def test_an_id_that_is_no_word_is_left_out(bad: str) -> None:
    service = read_service("s_6006", published(one(bad), one("good")), FOLDER)
    assert [server.id for server in service.servers] == ["good"]


@pytest.mark.parametrize("bad", [0, -1, True, "8; evil", 1.5, 10**9])
def test_a_limit_that_is_no_count_is_left_out(bad: Any) -> None:
    service = read_service("s_6006", published(one("bad", concurrency=bad), one("good")), FOLDER)
    assert [server.id for server in service.servers] == ["good"]


def test_an_id_is_written_once_and_one_service_speaks_one_protocol() -> None:
    raw = Endpoint("raw", "tcp://127.0.0.1:1", PortProtocol.TCP)
    service = read_service("s_6006", published(raw, one("a"), dataclasses.replace(raw)), FOLDER)
    assert [server.id for server in service.servers] == ["raw"]
    assert len(service.skipped) == 2


def test_services_have_names_that_are_words_and_differ() -> None:
    names = block_names(
        [
            DIGITS,
            ServiceKey("admin", "digits", 6008),
            ServiceKey("admin", "Digits"),
            ServiceKey("admin", "数字"),
            ServiceKey("admin", "字数"),
            ServiceKey("admin", "../x {"),
        ]
    )
    assert names[DIGITS] == "digits_6006"
    assert names[ServiceKey("admin", "digits", 6008)] == "digits_6008"
    assert len({name.lower() for name in names.values()}) == 6
    assert all(name.isascii() and set(name) <= set("._-") | {c for c in name if c.isalnum()} for name in names.values())
    assert not any(name.startswith(".") for name in names.values())
    both = block_names([DIGITS, ServiceKey("lab", "digits")])
    assert both[DIGITS] == "digits_6006"
    assert both[ServiceKey("lab", "digits")].startswith("digits-")


def test_a_block_says_in_a_comment_what_people_call_the_service() -> None:
    assert title(ServiceKey("admin", "数字")) == "# admin/数字/6006\n"
    assert title(ServiceKey("admin", "a\n}\x85\u2028\\b")) == "# admin/a}b/6006\n"


def test_nothing_is_written_before_anything_is_known_and_no_service_before_it_is(tmp_path: Path) -> None:
    async def scenario(clock: FakeClock) -> None:
        output = tmp_path / "muster.cfg"
        output.write_text("# mine\n")
        async with Export(output, clock, DIGITS, LETTERS) as export:
            await clock.sleep(60)
            assert output.read_text() == "# mine\n"
            await export.registry.publish(DIGITS, published(one("a")))
            await clock.sleep(1)
            assert "backend digits_6006\n" in output.read_text()
            assert "letters" not in output.read_text()
            await export.registry.publish(LETTERS, published())
            await clock.sleep(1)
            assert "backend letters_6006\n" in output.read_text()

    in_virtual_time(scenario)
    assert [path.name for path in tmp_path.iterdir()] == ["muster.cfg"]


def test_what_the_file_says_of_a_service_stays_until_it_is_known_again(tmp_path: Path) -> None:
    async def scenario(clock: FakeClock) -> None:
        output = tmp_path / "muster.cfg"
        raw = Endpoint("r", "tcp://127.0.0.1:25001", PortProtocol.TCP)
        async with Export(output, clock, DIGITS, LETTERS, ServiceKey("admin", "old")) as export:
            await export.registry.publish(DIGITS, published(one("a")))
            await export.registry.publish(LETTERS, published(raw))
            await export.registry.publish(ServiceKey("admin", "old"), published(one("o")))
            await clock.sleep(1)
        before = output.read_text()
        async with Export(output, clock, DIGITS, LETTERS) as export:
            await clock.sleep(1)
            assert output.read_text() == before
            await export.registry.publish(DIGITS, published(one("b")))
            await clock.sleep(1)
            text = output.read_text()
            assert "server b " in text
            assert "server a " not in text
            assert "server r 127.0.0.1:25001" in text
            assert "old_6006" not in text
            await export.registry.publish(LETTERS, published())
            await clock.sleep(1)
            assert "backend letters_6006\n    mode tcp\n" in output.read_text()
            assert "server r" not in output.read_text()

    in_virtual_time(scenario)


def test_a_service_whose_name_is_taken_away_as_it_ends_is_exported_as_nobody(tmp_path: Path) -> None:
    async def scenario(clock: FakeClock) -> None:
        output, uuid = tmp_path / "muster.cfg", ServiceKey("admin", "0123456789")
        async with Export(output, clock, DIGITS) as export:
            await export.registry.publish(uuid, published(one("a")))
            await export.registry.link(DIGITS, uuid)
            await clock.sleep(1)
            assert "server a " in output.read_text()
            await export.registry.publish(uuid, published(revision=2))
            await export.registry.unlink(DIGITS)
            await clock.sleep(1)
        assert "backend digits_6006\n" in output.read_text()
        assert "server a " not in output.read_text()

    in_virtual_time(scenario)


def test_all_sets_are_exported_where_no_service_is_named(tmp_path: Path) -> None:
    async def scenario(clock: FakeClock) -> None:
        output = tmp_path / "muster.cfg"
        async with Export(output, clock) as export:
            await export.registry.publish(DIGITS, published(one("a")))
            await clock.sleep(3)
            await export.registry.publish(LETTERS, published(one("b")))
            await clock.sleep(3)
        assert {line for line in output.read_text().splitlines() if line.startswith("backend")} == {
            "backend digits_6006",
            "backend letters_6006",
        }

    in_virtual_time(scenario)


def test_the_file_is_replaced_only_when_it_changes_and_behind_a_link(tmp_path: Path) -> None:
    async def scenario(clock: FakeClock) -> None:
        output, link = tmp_path / "available.cfg", tmp_path / "enabled.cfg"
        link.symlink_to(output)
        async with Export(link, clock, DIGITS) as export:
            await export.registry.publish(DIGITS, published(one("a")))
            await clock.sleep(1)
            first = output.stat()
            await export.registry.publish(DIGITS, published(one("a"), revision=2))
            coming = dataclasses.replace(published(one("a"), revision=3), withheld=(Withheld("x", "starting"),))
            await export.registry.publish(DIGITS, coming)
            await clock.sleep(1)
            assert output.stat() == first
            await export.registry.publish(DIGITS, published(one("b"), revision=4))
            await clock.sleep(1)
            assert output.stat().st_ino != first.st_ino
        assert link.is_symlink()

    in_virtual_time(scenario)


def test_a_file_that_cannot_be_written_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(clock: FakeClock) -> None:
        folder = tmp_path / "conf"
        folder.mkdir()
        async with Export(folder / "muster.cfg", clock, DIGITS) as export:
            folder.rmdir()
            await export.registry.publish(DIGITS, published(one("a")))
            await clock.sleep(1)
            assert "cannot be written" in caplog.text
            folder.mkdir()
            await clock.sleep(6)
            assert "server a " in (folder / "muster.cfg").read_text()

    in_virtual_time(scenario)


def test_an_endpoint_that_is_left_out_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(clock: FakeClock) -> None:
        async with Export(tmp_path / "muster.cfg", clock, DIGITS) as export:
            for revision in (1, 2):
                bad = Endpoint("bad", "http://user:secret@127.0.0.1:1/")
                await export.registry.publish(DIGITS, published(bad, one(f"a{revision}"), revision=revision))
                await clock.sleep(1)

    with caplog.at_level(logging.WARNING):
        in_virtual_time(scenario)
    assert caplog.messages == [
        "export of admin/digits/6006: endpoint 'bad' is left out: its url has more than a scheme, a host and a port"
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"template": "apache"}, "there are nginx and haproxy"),
        ({"output": None}, "a template needs a file"),
        ({"template": None}, "a file a template"),
        ({"template": None, "output": None}, "nothing to export"),
        ({"output": Path("/nowhere/muster.cfg")}, "a folder that exists"),
        ({"output": Path("/tmp")}, "name a file"),
        ({"output": Path("/tmp/it's.cfg")}, "quotes"),
    ],
)
def test_an_export_that_cannot_be_is_refused_with_what_to_change(more: dict[str, Any], said: str) -> None:
    told: dict[str, Any] = {"template": "nginx", "output": Path("/tmp/x.conf")} | more
    with pytest.raises(SetupError, match=said):
        Exporter(MemoryRegistry(Memory()), [DIGITS], SystemClock(), **told)


class Acts:
    """When the command was run, and how it went."""

    def __init__(self, clock: FakeClock, *results: bool, takes_seconds: float = 0.0) -> None:
        self.at: list[float] = []
        self._clock = clock
        self._results = list(results)
        self._takes_seconds = takes_seconds
        self._is_running = False

    async def __call__(self) -> bool:
        assert not self._is_running
        self._is_running = True
        self.at.append(round(self._clock.monotonic(), 2))
        await self._clock.sleep(self._takes_seconds)
        self._is_running = False
        return self._results.pop(0) if self._results else True


def changed_at(moments: list[float], *results: bool, takes_seconds: float = 0.0) -> list[float]:
    """Return when the command is run if something changes at these moments."""
    acts: list[Acts] = []

    async def scenario(clock: FakeClock) -> None:
        acts.append(Acts(clock, *results, takes_seconds=takes_seconds))
        reload = Debounced(clock, acts[0])
        task = asyncio.create_task(reload.run())
        for moment in moments:
            await clock.sleep(moment - clock.monotonic())
            reload.change()
        await clock.sleep(100)
        task.cancel()

    in_virtual_time(scenario)
    return acts[0].at


def test_a_command_is_run_half_a_second_after_the_last_change() -> None:
    assert changed_at([1.0, 1.3, 1.6]) == [2.1]


def test_a_command_is_run_within_five_seconds_though_changes_go_on() -> None:
    first, second = changed_at([1.0 + 0.2 * step for step in range(50)])
    assert first == 6.0
    assert second <= 11.3


def test_a_command_that_failed_is_run_again_after_a_while() -> None:
    assert changed_at([1.0], False, False) == [1.5, 31.5, 61.5]


def test_a_command_that_failed_is_run_again_at_the_next_change() -> None:
    assert changed_at([1.0, 10.0], False) == [1.5, 10.5]


def test_a_change_while_the_command_runs_is_followed_by_another_run() -> None:
    assert changed_at([1.0, 4.0], takes_seconds=20.0) == [1.5, 21.5]


def test_a_command_succeeds_or_is_logged_with_what_it_printed(caplog: pytest.LogCaptureFixture) -> None:
    assert asyncio.run(run_command("cat >/dev/null"))
    assert not asyncio.run(run_command("echo so long; echo and thanks >&2; exit 7"))
    assert "ended with 7; it printed:\nso long\nand thanks" in caplog.text


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    command = f"(sleep 0.6; touch {tmp_path}/survived) & sleep 50"
    assert not asyncio.run(run_command(command, limit_seconds=0.3))
    assert "it took more than" in caplog.text
    time.sleep(0.5)  # until after the child would have shown itself
    assert not list(tmp_path.iterdir())


def test_a_command_that_leaves_a_daemon_is_over_when_it_is_over() -> None:
    async def scenario() -> bool:
        async with asyncio.timeout(5):
            return await run_command("sleep 6 & exit 0")

    assert asyncio.run(scenario())


def test_a_command_does_not_see_our_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_TOKEN", "secret")
    monkeypatch.setenv("MUSTER_REGISTRY", "redis://:secret@cache")
    assert asyncio.run(run_command('test -z "$MUSTER_TOKEN$MUSTER_REGISTRY" && test -n "$PATH"'))


def test_a_command_without_template_reads_every_known_set(tmp_path: Path) -> None:
    async def scenario() -> None:
        result = tmp_path / "sets.json"
        command = f"cat > {result}.new && mv {result}.new {result}"
        async with Export(None, SystemClock(), DIGITS, LETTERS, command=command) as it:
            await it.registry.publish(DIGITS, published(one("a")))
            async with asyncio.timeout(10):
                while not result.exists():  # noqa: ASYNC110 another process makes it
                    await asyncio.sleep(0.02)
        assert json.loads(result.read_text()) == {
            "services": [
                {
                    "account": "admin",
                    "service": "digits",
                    "port": 6006,
                    "set": json.loads(published(one("a")).to_json()),
                }
            ]
        }

    asyncio.run(scenario())
