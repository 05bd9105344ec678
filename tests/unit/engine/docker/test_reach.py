"""Files and ports of real containers: nothing of a container can turn its files into a way out of it."""
# ruff: noqa: ASYNC240, PTH115, PTH116, PTH121, PTH208 - what the kernel shows in /proc is no path to any file

import asyncio
import os
import stat
import subprocess
import sysconfig
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from muster.engine.docker import inside
from muster.engine.docker.engine import DockerEngine
from muster.engine.port import ContainerRun
from muster.engine.sftp import confine
from muster.engine.sftp.process import open_sftp
from muster.engine.sftp.wire import Attributes, Kind, Status
from muster.errors import EngineRejected, EngineUnavailable
from muster.model.ids import AccountId, MachineId
from muster.testing.conformance.access import executed, told_by
from muster.testing.conformance.engine import DEADLINE_SECONDS, HERE, launch
from muster.testing.conformance.files import opened_files
from muster.testing.sftp_client import Refused, SftpClient
from tests.docker.daemon import Daemon
from tests.unit.engine.docker.opened import INSTALLATION, asked, docker_name, opened, order

pytestmark = pytest.mark.docker

Scenario = Callable[[DockerEngine, ContainerRun, Path], Awaitable[None]]


def play(daemon: Daemon, folder: Path, scenario: Scenario) -> None:
    """Run a scenario with one running container, and where this host sees its files."""

    async def main() -> None:
        async with opened(daemon, folder) as engine:
            run = order()
            await launch(engine, run)
            await scenario(engine, run, Path("/proc", str(await pid_of(daemon, run)), "root"))
            await engine.remove(run.ref)

    asyncio.run(main())


async def pid_of(daemon: Daemon, run: ContainerRun) -> int:
    """Return the number of a container's first process."""
    return int(await asked(daemon, "inspect", "--format", "{{.State.Pid}}", docker_name(run)))


def workers() -> list[int]:
    """Return the SFTP processes that this process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"muster.engine.sftp" in words and int(parent) == os.getpid():
            found.append(int(path.name))
    return found


def test_a_device_of_the_host_is_never_opened(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario(engine: DockerEngine, run: ContainerRun, root: Path) -> None:
        disk = os.stat(tmp_path).st_dev
        os.mknod(root / "root/disk", 0o666 | stat.S_IFBLK, disk)
        os.mknod(root / "root/memory", 0o666 | stat.S_IFCHR, os.makedev(1, 1))
        os.mkfifo(root / "root/pipe")
        (root / "root/link").symlink_to("disk")
        async with opened_files(engine, run) as client:
            for name in ("disk", "memory", "pipe", "link", "/dev/null", "/dev/tty"):
                for how in (1, 2, 3, 0x1B):
                    with pytest.raises(Refused) as refusal:
                        await client.open(name, how)
                    assert refusal.value.code in {Status.PERMISSION_DENIED, Status.FAILURE, Status.NO_SUCH_FILE}
                with pytest.raises(Refused):
                    await client.change(name, Attributes(size=0))
            assert stat.S_ISBLK((await client.stat("disk")).permissions or 0)

    play(docker_daemon, tmp_path, scenario)


def test_nothing_that_lies_in_the_container_is_loaded(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario(engine: DockerEngine, run: ContainerRun, root: Path) -> None:
        trap = "open('/root/trapped', 'w')\nraise SystemExit\n"
        standard = Path(sysconfig.get_path("stdlib"))
        names = ("encodings/latin_1.py", "encodings/idna.py", "pwd.py", "grp.py", "locale.py", "linecache.py")
        places = [standard / name for name in names]
        places += [Path(confine.__file__).with_name("files.py"), Path("/usr/lib/python3/sitecustomize.py")]
        for place in places:
            inner = root / str(place).lstrip("/")
            inner.parent.mkdir(parents=True, exist_ok=True)
            inner.write_text(trap)
        libraries = ("libnss_files.so.2", "libnss_compat.so.2", "libgcc_s.so.1", "libc.so.6")
        for folder in ("lib", "usr/lib", "lib64", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for name in libraries:
                (root / folder / name).write_bytes(b"\x7fELF not a library")
        (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\n")
        (root / "etc/localtime").write_bytes(b"TZif2 not a zone")
        async with opened_files(engine, run) as client:
            (worker,) = workers()
            assert await client.names("/etc")
            with pytest.raises(Refused):
                await client.get("/absent-\N{SNOWMAN}")
            with pytest.raises(Refused):
                await client.extended("expand-path@openssh.com", "~nobody")
            await client.put("caf\N{LATIN SMALL LETTER E WITH ACUTE}", [b"word"])
            await client.change("/root", Attributes(owner=(12345, 54321)))
            assert await client.names("/root")
            mapped = {line.split()[-1] for line in Path(f"/proc/{worker}/maps").read_text().splitlines() if "/" in line}
            ours = [name for name in mapped if name.startswith("/") and not name.startswith("/dev/zero")]
            assert all(os.path.samefile(name, f"/proc/self/root{name}") for name in ours)
            assert not [name for name in os.listdir(f"/proc/{worker}/fd") if int(name) > 2 and is_of_host(worker, name)]
        assert not (root / "root/trapped").exists()

    def is_of_host(worker: int, name: str) -> bool:
        return os.readlink(f"/proc/{worker}/fd/{name}").startswith("/")

    play(docker_daemon, tmp_path, scenario)


def test_the_process_has_few_rights_and_the_containers_root(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario(engine: DockerEngine, run: ContainerRun, root: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("of the host")
        (root / "root/out").symlink_to(f"../../../../../../../..{secret}")
        async with opened_files(engine, run) as client:
            (worker,) = workers()
            status = dict(
                line.split(":\t", 1)
                for line in Path(f"/proc/{worker}/status").read_text().splitlines()
                if ":\t" in line
            )
            for name in ("CapPrm", "CapEff"):
                assert int(status[name], 16) == confine.KEPT
            for name in ("CapInh", "CapBnd", "CapAmb"):
                assert int(status[name], 16) == 0
            assert status["NoNewPrivs"] == "1"
            assert os.path.samefile(f"/proc/{worker}/root", root)
            for path in ("out", str(secret), f"../../../..{secret}", f"/proc/1/cwd/..{secret}"):
                with pytest.raises(Refused):
                    await client.get(path)
            assert await client.name(Kind.REALPATH, "../../../..") == "/"
            await client.put("/root/../../../etc/made", [b"inside"])
            assert (root / "etc/made").read_bytes() == b"inside"
        assert not Path("/etc/made").exists()

    play(docker_daemon, tmp_path, scenario)


def test_a_process_that_is_not_of_the_container_is_never_entered(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario(engine: DockerEngine, run: ContainerRun, root: Path) -> None:
        docker_id = await asked(docker_daemon, "inspect", "--format", "{{.Id}}", docker_name(run))
        with pytest.raises(EngineUnavailable, match="is not of"), inside.files_of(docker_id, os.getpid()):
            pass
        with pytest.raises(EngineUnavailable, match="is not of"):
            inside.make_socket(docker_id, os.getpid(), 2)  # type: ignore[arg-type]
        with pytest.raises(EngineRejected), inside.files_of(docker_id, 2**22 - 1):
            pass

    play(docker_daemon, tmp_path, scenario)


def test_connections_leave_this_process_in_its_own_network(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            run = order("exec nc -ll -p 7000 -e cat /etc/hostname")
            await launch(engine, run)
            before = network()
            pid = await pid_of(docker_daemon, run)
            async with executed(engine, run, "sh", "-c", "until nc 127.0.0.1 7000 </dev/null; do :; done") as command:
                hostname = (await told_by(command))[0]
            for _ in range(5):
                session = await engine.dial(run.ref, "localhost", 7000)
                await session.write_eof()
                assert (await told_by(session))[0] == hostname
                await session.aclose()
            assert network() == before != os.readlink(f"/proc/{pid}/ns/net")
            assert {os.readlink(f"/proc/self/task/{each}/ns/net") for each in os.listdir("/proc/self/task")} == {before}
            await engine.remove(run.ref)

    def network() -> str:
        return os.readlink("/proc/self/ns/net")

    asyncio.run(main())


def test_containers_reach_the_host_at_the_address_of_their_network(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            address = await engine.host_address(HERE, AccountId(1))
            other = await engine.host_address(HERE, AccountId(2))
            assert address != other
            server = await asyncio.start_server(lambda _, writer: writer.close(), address, 0)
            port = server.sockets[0].getsockname()[1]
            run = order()
            await launch(engine, run)
            async with executed(engine, run, "nc", "-w", "5", address, str(port)) as session:
                assert (await told_by(session))[2] == 0
            server.close()
            await server.wait_closed()
            await engine.remove(run.ref)

    asyncio.run(main())


def test_a_daemon_elsewhere_cannot_be_entered(tmp_path: Path) -> None:
    async def main() -> None:
        engine = DockerEngine("tcp://192.0.2.1:2375", installation=INSTALLATION, root=tmp_path)
        assert not engine.capabilities.has_sftp
        assert not engine.capabilities.can_dial
        assert await engine.host_address(MachineId("aaaaaaaaaa"), AccountId(1)) == ""
        with pytest.raises(EngineRejected, match="on another host"):
            await engine.sftp(order().ref)
        await engine.aclose()

    asyncio.run(main())


def test_a_second_process_that_only_reaches_in_changes_nothing(docker_daemon: Daemon, tmp_path: Path) -> None:
    """The ingress opens the engine of the same home beside the server's."""

    async def main() -> None:
        async with opened(docker_daemon, tmp_path) as first:
            run, waits = order(), order()
            await launch(first, run)
            await first.create(waits)
            before = await world()
            async with opened(docker_daemon, tmp_path) as second:
                assert await world() == before
                async with executed(second, run, "true") as session:
                    assert (await told_by(session))[2] == 0
                async with opened_files(second, run) as client:
                    assert await client.names("/root")
                with pytest.raises(EngineRejected):
                    await second.dial(run.ref, "127.0.0.1", 1)
                for ref in (waits.ref, order().ref):
                    with pytest.raises(EngineRejected):
                        await second.sftp(ref)
                tasks = {task.get_name() for task in asyncio.all_tasks()} - {asyncio.current_task().get_name()}  # type: ignore[union-attr]
                assert not tasks  # no watch, no sweep, no stop
            assert await world() == before
            for each in (run, waits):
                await first.remove(each.ref)

    async def world() -> tuple[object, ...]:
        files = {path: path.lstat().st_mtime_ns for path in (tmp_path / "root").rglob("*")}
        containers = await asked(
            docker_daemon, "ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}"
        )
        networks = await asked(docker_daemon, "network", "ls", "--no-trunc", "--quiet")
        return files, containers, networks, sorted((await asked(docker_daemon, "images", "--quiet")).split())

    asyncio.run(main())


def test_a_user_namespace_of_the_container_is_entered_too(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for each in (folder, *folder.parents[:-2]):
        each.chmod(0o777)
    process = subprocess.Popen(["unshare", "--user", "--mount", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None

    async def main() -> None:
        namespaces = [f"/proc/{each}/ns/mnt" for each in ("self", process.pid)]
        async with asyncio.timeout(DEADLINE_SECONDS):
            while os.readlink(namespaces[0]) == os.readlink(namespaces[1]):  # noqa: ASYNC110  the kernel tells nobody
                await asyncio.sleep(0.005)
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{kind}").write_text("0 100000 65536")
        session = await open_sftp(inside=lambda: inside.files_of("/", process.pid))  # all are of some control group
        client = SftpClient(session)
        try:
            await client.begin()
            await client.put(f"{folder}/file", [b"word"])
            assert ((folder / "file").stat().st_uid, (folder / "file").stat().st_gid) == (100_000, 100_000)
            assert (await client.stat(f"{folder}/file")).owner == (0, 0)
            with pytest.raises(Refused):
                await client.get("/etc/shadow")
        finally:
            await session.aclose()

    try:
        asyncio.run(main())
    finally:
        process.communicate()
