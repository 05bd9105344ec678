"""What a container may not do, whom it may not reach, what nobody may read, and what is not ours to touch."""

import asyncio
import socket
import stat
import time
from pathlib import Path

import pytest

from muster.engine.docker.engine import DockerEngine
from muster.engine.docker.spec import INSTALLATION as INSTALLATION_LABEL
from muster.engine.port import Phase, Ref, StopOrder
from muster.errors import EngineRejected
from muster.model.container import Reason
from muster.model.ids import ContainerId
from muster.testing.conformance.engine import AT_ONCE, HERE, launch, until, until_output
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BUSYBOX
from tests.unit.engine.docker.opened import INSTALLATION, asked, docker_name, opened, order, output

pytestmark = pytest.mark.docker

SECRET = "correct-horse-battery"
SERVE = "exec nc -ll -p 6006 -e echo hello"
SETUID = "grep -E 'NoNewPrivs|CapEff|CapBnd' /proc/self/status"
DOCKERS_OWN = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)
"""The numbers of the capabilities that Docker gives unless told otherwise."""
NET_RAW, MKNOD = 13, 27


def test_a_container_gets_fewer_capabilities_than_dockers_own_and_no_way_to_more(
    docker_daemon: Daemon, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            run = order(f"{SETUID}; mknod /tmp/disk b 8 0 2>&1 || echo refused; ls /dev/sd* /dev/mem 2>/dev/null")
            lines = (await output(engine, run)).splitlines()
            status = dict(line.split(":\t") for line in lines if ":\t" in line)
            allowed = sum(1 << number for number in DOCKERS_OWN if number not in (NET_RAW, MKNOD))
            assert status["NoNewPrivs"] == "1"
            assert int(status["CapBnd"], 16) & ~allowed == 0
            assert int(status["CapEff"], 16) & ~allowed == 0
            assert lines[-1] == "refused"
            seen = await asked(docker_daemon, "inspect", docker_name(run), "--format", "{{json .HostConfig}}")
            for setting in ('"Privileged":false', '"PidMode":""', '"CapAdd":null', '"IpcMode":"private"'):
                assert setting in seen

    asyncio.run(scenario())


def test_nothing_secret_shows_in_docker_and_only_its_owner_reads_the_folder(
    docker_daemon: Daemon, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            run = order(f"trap 'exit 0' TERM; echo {SECRET}; while :; do sleep 0.01; done", PASSWORD=SECRET)
            await launch(engine, run)
            await until_output(engine, run.ref)
            shown = [await asked(docker_daemon, "top", docker_name(run), "-o", "pid,comm")]
            await engine.stop(run.ref, StopOrder(cmd_before_shutdown=f"echo {SECRET} > /root/told"))
            await until(engine, run.ref, Phase.EXITED)
            assert await asked(docker_daemon, "cp", f"{docker_name(run)}:/root/told", str(tmp_path / "told")) == ""
            assert (tmp_path / "told").read_text() == f"{SECRET}\n", "it was run all the same"
            shown += [
                await asked(docker_daemon, *words)
                for words in (
                    ("inspect", docker_name(run)),
                    ("ps", "--all", "--no-trunc", "--format", "{{json .}}"),
                    ("events", "--since", "5m", "--until", f"{time.time():.9f}", "--format", "{{json .}}"),
                    ("network", "inspect", f"muster-{INSTALLATION[:8]}-account-1"),
                    ("history", "--no-trunc", BUSYBOX),
                )
            ]
            assert "exec_create" in shown[3]
            assert all(SECRET not in each for each in shown)

    asyncio.run(scenario())
    (folder,) = (tmp_path / "root" / "objects").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = [path for path in folder.rglob("*") if path.is_file() and "tmp" not in path.parts[len(folder.parts) :]]
    assert len(files) > 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert any(SECRET in path.read_text() for path in files), "the folder is where it lies"


def test_an_account_reaches_its_own_containers_and_no_other_accounts(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def are_apart(engine: DockerEngine, account: int) -> bool:
        serving, sibling, stranger = order(SERVE, account=account), order(account=account), order(account=account + 1)
        for run in (serving, sibling, stranger):
            await launch(engine, run)
        address = (await engine.observe(serving.ref)).addresses[6006]
        ask = f"until nc -w 2 {address.host} {address.port} | grep hello; do sleep 0.05; done"
        assert await asked(docker_daemon, "exec", docker_name(sibling), "sh", "-c", ask) == "hello"
        with socket.create_connection((address.host, address.port), timeout=5) as connection:
            assert connection.recv(100) == b"hello\n", "the host, where the ingress runs, reaches all"
        assert await asked(docker_daemon, "port", docker_name(serving)) == "", "nothing is published"
        ask = f"nc -w 2 {address.host} {address.port}; echo ended"
        return await asked(docker_daemon, "exec", docker_name(stranger), "sh", "-c", ask) == "ended"

    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            # Any other daemon that starts on this host takes the rules away from the networks that are there by then.
            assert await are_apart(engine, 1) or await are_apart(engine, 3) or await are_apart(engine, 5)

    asyncio.run(scenario())


def test_what_is_not_ours_is_never_touched_whatever_it_is_called(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        name = f"muster-{INSTALLATION[:8]}"
        other = f"{INSTALLATION[:8]}-another"
        async with opened(docker_daemon, tmp_path) as engine:
            await output(engine, mine := order("echo mine"))
            await asked(docker_daemon, "commit", docker_name(mine), "by-hand:1")
            foreign = {
                "without a label": ("--name", f"{name}-{'a' * 16}"),
                "another's by label": ("--name", f"{name}-{'b' * 16}", "--label", f"{INSTALLATION_LABEL}={other}"),
                "ours by label only": ("--name", "by-hand", "--label", f"{INSTALLATION_LABEL}={INSTALLATION}"),
            }
            run = ("run", "--detach", "--init")
            ids = [await asked(docker_daemon, *run, *words, BUSYBOX, "sleep", "1000") for words in foreign.values()]
            by_hand = ("--entrypoint", "/bin/sh", "by-hand:1", "-c", "sleep 1000")
            ids.append(await asked(docker_daemon, *run, "--name", "committed", *by_hand))
            await asked(docker_daemon, "network", "create", f"{name}-account-7")
            await asked(docker_daemon, "network", "create", "--label", f"{INSTALLATION_LABEL}={other}", "theirs")

            assert [seen.ref for seen in await engine.observe_all(HERE)] == [mine.ref]
            for letter in "ab":
                ref = Ref(HERE, ContainerId(letter * 16))
                assert (await engine.observe(ref)).phase is Phase.ABSENT
                assert (await engine.stop(ref, AT_ONCE)).phase is Phase.ABSENT
                await engine.remove(ref)
                with pytest.raises(EngineRejected):
                    await engine.start(ref)
            with pytest.raises(EngineRejected, match=r"account-7.*not of this installation") as refusal:
                await engine.create(order(account=7))
            assert refusal.value.reason == Reason.START_FAILED

            assert await engine.end_all(AT_ONCE, keeps_remains=False) == (0, 0)
            left = (await asked(docker_daemon, "ps", "--quiet", "--no-trunc")).split()
            assert sorted(left) == sorted(ids)
            networks = (await asked(docker_daemon, "network", "ls", "--format", "{{.Name}}")).split()
            assert sorted(networks) == ["host", f"{name}-account-7", "none", "theirs"]

    asyncio.run(scenario())


def test_a_name_that_a_stranger_has_is_refused_in_words(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            run = order()
            await asked(docker_daemon, "create", "--name", docker_name(run), BUSYBOX, "true")
            with pytest.raises(EngineRejected, match="not of this installation") as refusal:
                await engine.create(run)
            assert refusal.value.reason == Reason.START_FAILED
            assert not list((tmp_path / "root" / "objects").iterdir())

    asyncio.run(scenario())
