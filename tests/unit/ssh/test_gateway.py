"""The gateway against asyncssh's own client: who gets in, what they may open, and what is told to the others."""

import asyncio
import contextlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from muster.engine.port import Capabilities
from muster.errors import EngineRejected, EngineUnavailable
from muster.model.routes import RouteState, SshRoute
from muster.ssh.connection import MAX_PASSWORDS
from muster.ssh.door import MAX_CONNECTIONS, MAX_STRANGERS
from muster.ssh.hostkey import public_host_key
from muster.testing.exec_session import MemorySession
from tests.unit.ssh.premises import PASSWORD, House, at_home, free_port, route

MEGABYTE = 1 << 20


class Banner(asyncssh.SSHClient):
    """A client that keeps what it is told before it is let in."""

    def __init__(self) -> None:
        self.text = ""

    def auth_banner_received(self, msg: str, lang: str) -> None:
        self.text += msg


# Who gets in.


def test_the_password_lets_root_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(house: House) -> None:
        async with house.connect() as client:
            done = await client.run("fail 42")
            assert (done.exit_status, done.stdout, done.stderr) == (42, "out\n", "err\n")
        assert not house.clock.waits

    caplog.set_level(logging.INFO, "muster")
    at_home(tmp_path, scenario)
    assert "ssh: root logged in to c-1 from 127.0.0.1 by password" in caplog.messages
    assert PASSWORD not in caplog.text
    assert "fail 42" not in caplog.text, "commands may be secret"


def test_a_wrong_password_is_answered_late_and_counted_and_the_third_ends_the_connection(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        tries: list[str] = []

        class Guessing(asyncssh.SSHClient):
            def password_auth_requested(self) -> str:
                tries.append("wrong")
                return "wrong"

        with pytest.raises(asyncssh.DisconnectError, match="Too many authentication failures"):
            await house.connect(password=None, client_factory=Guessing)
        assert len(tries) == MAX_PASSWORDS
        assert house.clock.waits == [2, 2, 2]
        assert house.gateway.failed_logins == MAX_PASSWORDS

        with pytest.raises(asyncssh.PermissionDenied):
            await house.connect(password="wrong", client_factory=asyncssh.SSHClient)
        assert house.clock.waits == [2, 2, 2, 4], "whoever goes on waits longer"
        async with house.connect():
            pass
        with pytest.raises(asyncssh.PermissionDenied):
            await house.connect(password="wrong")
        assert house.clock.waits[4:] == [2], "who got in begins anew"

    at_home(tmp_path, scenario)


def test_a_key_of_the_account_lets_in_and_another_does_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours, other = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    line = ours.export_public_key().decode().strip()

    async def scenario(house: House) -> None:
        await house.show(route("c-1", house.port, "nonsense", "ssh-ed25519 ???", line))
        async with house.connect(password=None, client_keys=[other, ours]) as client:
            assert (await client.run("fail 0")).stdout == "out\n"
        with pytest.raises(asyncssh.PermissionDenied):
            await house.connect(password=None, client_keys=[other])
        assert house.gateway.failed_logins == 0, "an agent offers all it has"

    caplog.set_level(logging.INFO, "muster")
    at_home(tmp_path, scenario)
    assert f"ssh: root logged in to c-1 from 127.0.0.1 by key {ours.get_fingerprint()}" in caplog.messages


def test_an_agent_full_of_keys_is_sent_away(tmp_path: Path) -> None:
    ours = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    many = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(31)]

    async def scenario(house: House) -> None:
        await house.show(route("c-1", house.port, ours))
        with pytest.raises(asyncssh.DisconnectError, match="Too many authentication failures"):
            await house.connect(password=None, client_keys=many)

    at_home(tmp_path, scenario)


def test_the_only_user_is_root(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        banner = Banner()
        with pytest.raises(asyncssh.DisconnectError, match="the only user of a container is root"):
            await house.connect(user="ubuntu", client_factory=lambda: banner)
        assert banner.text == f"muster: the only user of a container is root: ssh -p {house.port} root@HOST\r\n"

    at_home(tmp_path, scenario)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"state": RouteState.ENDED, "is_running": False, "message": "container c-1 has ended: stopped"},
            "c-1 has ended: stopped",
        ),
        ({"state": RouteState.ENDED, "is_running": False}, "c-1 has ended"),
        ({"is_running": False}, "c-1 does not run yet: try again in a moment"),
    ],
)
def test_a_container_that_does_not_run_says_why_before_it_asks_for_a_password(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    async def scenario(house: House) -> None:
        await house.show(route("c-1", house.port, **changes))
        banner = Banner()
        with pytest.raises(asyncssh.DisconnectError, match=told):
            await house.connect(client_factory=lambda: banner)
        assert banner.text == f"muster: container {told}\r\n"

    at_home(tmp_path, scenario)


def test_a_container_that_drains_still_lets_in(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        await house.show(route("c-1", house.port, state=RouteState.REFUSE))
        async with house.connect() as client:
            assert (await client.run("fail 0")).exit_status == 0

    at_home(tmp_path, scenario)


def test_who_knocks_without_logging_in_is_limited_by_address(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async def knock() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_connection("127.0.0.1", house.port)

        knocking = [await knock() for _ in range(MAX_STRANGERS)]
        for reader, _ in knocking:
            assert await reader.readline() == b"SSH-2.0-Muster\r\n"
        reader, writer = await knock()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        for _, each in knocking:
            each.close()
        await house.until(lambda: house.gateway.connections == 0)
        async with house.connect():
            pass

    at_home(tmp_path, scenario)


def test_who_knocks_at_many_containers_is_limited_by_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.ssh.door.MAX_STRANGERS_EVERYWHERE", 3)

    async def scenario(house: House) -> None:
        other = route("c-2", free_port())
        assert other.ssh is not None
        await house.show(house.route, other)
        knocking = []
        for port in (house.port, other.ssh.listen_port, house.port):
            knocking.append(await asyncio.open_connection("127.0.0.1", port))
            assert await knocking[-1][0].readline() == b"SSH-2.0-Muster\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", other.ssh.listen_port)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        for _, each in knocking:
            each.close()
        await house.until(lambda: house.gateway.connections == 0)
        async with house.connect(), house.connect(), house.connect(), house.connect():
            pass

    at_home(tmp_path, scenario)


@pytest.mark.slow
def test_a_container_has_so_many_connections_and_no_more(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        inside = [await house.connect() for _ in range(MAX_CONNECTIONS)]
        with pytest.raises(asyncssh.DisconnectError, match=f"has {MAX_CONNECTIONS} connections already"):
            await house.connect()
        inside[0].close()
        await house.until(lambda: house.gateway.connections == MAX_CONNECTIONS - 1)
        async with house.connect():
            pass

    at_home(tmp_path, scenario)


def test_garbage_costs_nothing(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 100)
        await reader.read()
        writer.close()
        async with house.connect():
            pass

    at_home(tmp_path, scenario)


# What they may open.


def test_input_of_any_size_comes_back_and_its_end_is_told(tmp_path: Path) -> None:
    data = bytes(range(256)) * (4 * MEGABYTE // 256)

    async def scenario(house: House) -> None:
        async with house.connect() as client:
            done = await client.run("cat", input=data, encoding=None)
            assert done.stdout == data
            assert done.exit_status == 0

    at_home(tmp_path, scenario)


def test_who_does_not_read_holds_up_the_command(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with house.connect() as client:
            process = await client.create_process("yes", encoding=None, window=MEGABYTE)
            session = await begun(house)
            written = -1
            while written != session.written_bytes:
                written = session.written_bytes
                await asyncio.sleep(0.1)
            assert written < 4 * MEGABYTE
            process.close()
            await house.until(lambda: session.is_hung_up)

    at_home(tmp_path, scenario)


def test_input_that_nobody_reads_holds_up_nothing_else(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with house.connect() as client:
            process = await client.create_process("deaf 1", term_type="xterm", term_size=(80, 24), encoding=None)
            await begun(house)
            process.stdin.write(b"x" * 16 * MEGABYTE)
            process.change_terminal_size(100, 30)
            assert await process.stdout.read() == b"(100, 30)\n"

    at_home(tmp_path, scenario)


def test_a_terminal_has_its_size_and_learns_new_ones(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with house.connect() as client:
            process = await client.create_process("deaf 2", term_type="vt100", term_size=(90, 20))
            session = await begun(house)
            assert (session.order.has_tty, session.size) == (True, (90, 20))
            process.change_terminal_size(132, 43)
            assert await process.stdout.readline() == "(132, 43)\n"
            process.change_terminal_size(0, 0)
            process.change_terminal_size(133, 44)
            assert await process.stdout.readline() == "(133, 44)\n"
            assert (await process.wait()).exit_status == 0

    at_home(tmp_path, scenario)


def test_several_sessions_share_a_connection(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with house.connect() as client:
            ended = await asyncio.gather(*(client.run(f"fail {code}") for code in range(8)))
            assert [each.exit_status for each in ended] == list(range(8))

    at_home(tmp_path, scenario)


def test_a_client_that_goes_away_hangs_up_on_its_command(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        client = await house.connect()
        await client.create_process("cat")
        session = await begun(house)
        assert house.gateway.sessions == 1
        client.abort()
        await house.until(lambda: session.is_hung_up)
        await house.until(lambda: house.gateway.sessions == 0)

    at_home(tmp_path, scenario)


def test_a_signal_is_a_key_at_a_terminal_and_a_hang_up_elsewhere(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with house.connect() as client:
            terminal = await client.create_process("cat", term_type="xterm", encoding=None)
            terminal.send_signal("INT")
            assert await terminal.stdout.read(1) == b"\x03"
            plain = await client.create_process("cat")
            await house.until(lambda: len(house.engine.sessions) == 2)
            plain.send_signal("USR1")
            plain.send_signal("TERM")
            await house.until(lambda: house.engine.sessions[1].is_hung_up)
            assert (await plain.wait()).exit_status == 255

    at_home(tmp_path, scenario)


def test_sftp_is_the_engines(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with house.connect() as client:
            process = await client.create_process(subsystem="sftp", encoding=None)
            process.stdin.write(b"hello")
            process.stdin.write_eof()
            assert await process.stdout.read() == b"hello"
            with pytest.raises(asyncssh.ChannelOpenError):
                await client.create_process(subsystem="netconf")

    at_home(tmp_path, scenario)


def test_ports_of_the_container_itself_are_forwarded_with_half_close(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with house.connect() as client:
            for host in ("127.0.0.1", "localhost", "::1"):
                reader, writer = await client.open_connection(host, 6006)
                writer.write(b"ping")
                writer.write_eof()
                assert await reader.read() == b"ping"
            assert house.engine.dialled == [("127.0.0.1", 6006), ("localhost", 6006), ("::1", 6006)]
            with pytest.raises(asyncssh.ChannelOpenError, match="nothing answers at port 1"):
                await client.open_connection("127.0.0.1", 1)
            with pytest.raises(asyncssh.ChannelOpenError, match=r"at 127\.0\.0\.1, not at example\.com"):
                await client.open_connection("example.com", 80)
            assert len(house.engine.dialled) == 4

    at_home(tmp_path, scenario)


def test_nothing_is_forwarded_to_the_client(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with house.connect() as client:
            with pytest.raises(asyncssh.ChannelListenError):
                await client.forward_remote_port("127.0.0.1", 0, "127.0.0.1", 1)
            with pytest.raises(asyncssh.ChannelOpenError):
                await client.open_unix_connection("/var/run/docker.sock")

    at_home(tmp_path, scenario)


@pytest.mark.parametrize("refusal", [EngineRejected("error", "it does\nnot run"), EngineUnavailable("it does not run")])
def test_what_the_engine_refuses_is_one_line_and_255(tmp_path: Path, refusal: Exception) -> None:
    async def scenario(house: House) -> None:
        house.engine.refusal = refusal
        async with house.connect() as client:
            done = await client.run("fail 1")
            assert (done.exit_status, done.stdout, done.stderr) == (255, "", "muster: it does not run\n")

    at_home(tmp_path, scenario)


def test_an_engine_that_is_lost_midway_is_told_as_such(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with house.connect() as client:
            done = await client.run("break")
            assert (done.exit_status, done.stdout) == (255, "before\n")
            assert done.stderr == "muster: the daemon went away\n"

    at_home(tmp_path, scenario)


def test_what_an_engine_cannot_do_is_said(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        async with house.connect() as client:
            assert "cannot run commands" in (await client.run("fail 1")).stderr
            process = await client.create_process(subsystem="sftp")
            assert "muster fs cp" in await process.stderr.read()
            with pytest.raises(asyncssh.ChannelOpenError, match="cannot forward ports"):
                await client.open_connection("127.0.0.1", 6006)

    at_home(tmp_path, scenario, capabilities=Capabilities(shares_host_ports=True, isolates_tenants=False))


# What tables do.


def test_two_containers_have_their_own_ports_and_one_host_key(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        other = free_port()
        assert await house.show(house.route, route("c-2", other)) == {}
        keys = set()
        for port, name in ((house.port, "id-c-1"), (other, "id-c-2")):
            async with house.connect(port=port) as client:
                await client.run("fail 0")
                keys.add(client.get_server_host_key().export_public_key().decode().strip())
            assert house.engine.sessions[-1].ref.container_id == name
        assert keys == {public_host_key(tmp_path)}

    at_home(tmp_path, scenario)


def test_a_port_that_is_taken_is_reported_and_opened_once_it_is_free(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        taken = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        port = taken.sockets[0].getsockname()[1]
        failures = await house.show(house.route, route("c-2", port))
        assert list(failures) == [port]
        assert "in use" in failures[port]
        taken.close()
        await taken.wait_closed()
        assert await house.show(house.route, route("c-2", port)) == {}
        async with house.connect(port=port):
            pass

    at_home(tmp_path, scenario)


def test_a_new_password_and_a_new_run_count_from_the_next_login_on(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        changed = replace(house.route, ssh=SshRoute(house.port, ""), generation=2)
        await house.show(changed)
        with pytest.raises(asyncssh.PermissionDenied):
            await house.connect()
        await house.show(replace(house.route, generation=2))
        async with house.connect() as client:
            await client.run("fail 0")
        assert house.engine.sessions[-1].ref.generation == 2

    at_home(tmp_path, scenario)


def test_what_runs_in_a_container_that_left_the_table_comes_to_its_own_end(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        busy, idle = await house.connect(), await house.connect()
        process = await busy.create_process("cat")
        await begun(house)
        assert await house.clear() == {}
        await idle.wait_closed()
        process.stdin.write("still here")
        process.stdin.write_eof()
        assert await process.stdout.read() == "still here"
        await busy.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await house.connect()

    at_home(tmp_path, scenario)


def test_nothing_new_is_opened_in_a_container_that_has_ended(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        client = await house.connect()
        process = await client.create_process("cat")
        await begun(house)
        await house.show(
            replace(house.route, state=RouteState.ENDED, is_running=False, message="container c-1 has ended: error")
        )
        assert (await client.run("fail 0")).stderr == "muster: container c-1 has ended: error\n"
        with pytest.raises(asyncssh.ChannelOpenError, match="has ended"):
            await client.open_connection("127.0.0.1", 6006)
        process.stdin.write_eof()
        assert (await process.wait()).exit_status == 0

    at_home(tmp_path, scenario)


def test_a_port_that_changes_hands_leads_to_the_new_container(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        old = await house.connect()
        process = await old.create_process("cat")
        await begun(house)
        await house.show(route("c-2", house.port))
        assert "c-1 has ended" in (await old.run("fail 0")).stderr
        async with house.connect() as new:
            await new.run("fail 0")
        assert house.engine.sessions[-1].ref.container_id == "id-c-2"
        process.stdin.write_eof()
        await process.wait()

    at_home(tmp_path, scenario)


def test_closing_ends_what_is_open(tmp_path: Path) -> None:
    async def scenario(house: House) -> None:
        client = await house.connect()
        await client.create_process("yes")
        await begun(house)
        await house.gateway.aclose()
        await client.wait_closed()

    house = at_home(tmp_path, scenario)
    assert house.engine.sessions[0].is_hung_up


async def begun(house: House) -> MemorySession:
    """Wait until a session runs; returns it."""
    await house.until(lambda: bool(house.engine.sessions))
    return house.engine.sessions[0]
