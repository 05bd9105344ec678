"""What a start command finds: shell, folder, variables, host name, mounts, an init; and that it runs once."""

import asyncio
import dataclasses
import io
import re
import tarfile
from contextlib import aclosing
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pytest

from muster.engine.docker.engine import DockerEngine
from muster.engine.docker.spec import Storage
from muster.engine.port import ContainerRun, Phase, StopOrder
from muster.errors import EngineRejected
from muster.model.container import Reason
from muster.model.ids import ContainerUuid
from muster.testing.conformance.engine import launch, output_of, until, until_output
from tests.docker import images
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BASH, BUSYBOX
from tests.unit.engine.docker.opened import asked, docker_name, ended, opened, order, output

pytestmark = pytest.mark.docker

ODD = {
    "QUOTES": 'it\'s "quoted" `twice` $HOME \\n',
    "LINES": "one\n\n  two\n",
    "UNICODE": "模型 – naïve ✓",
    "EMPTY": "",
    "DASH": "-n",
    "STAR": "* ? [a-z] ~",
    # What a wrapper in shell might use itself
    **{name: f"mine: {name}" for name in ("name", "run", "token", "command", "own", "each", "line", "IFS_", "file")},
}
TELL = 'for key in "$@"; do eval "printf \'%s=%s|\' $key \\"\\$$key\\""; done'
HELP, PROFILE = "/init/others/help", "/etc/profile.d/autodl.env.sh"


def imported(daemon: Daemon, reference: str, **files: bytes) -> str:
    """Give the daemon an image of these files only."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name.replace("_", "/"))
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, io.BytesIO(data))
    daemon.docker("import", "-", reference, stdin=content.getvalue())
    return reference


async def until_seen(engine: DockerEngine, run: ContainerRun, wanted: str) -> str:
    """Read what a run writes until something stands in it."""
    seen = ""
    async with asyncio.timeout(20), aclosing(cast("Any", engine.logs(run.ref, follow=True))) as chunks:
        while wanted not in seen:
            seen += (await anext(chunks)).decode()
    return seen


@pytest.mark.parametrize(("image", "shell"), [(BASH, "bash"), (BUSYBOX, "sh")])
def test_the_command_is_run_by_bash_where_there_is_one(
    image: str, shell: str, docker_daemon: Daemon, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            words = (await output(engine, order("echo $0 ${BASH_VERSION:+by bash}; pwd; id -u", image=image))).split()
            assert Path(words[0]).name == shell
            assert words[1:] == (["by", "bash"] if shell == "bash" else []) + ["/root", "0"]

    asyncio.run(scenario())


def test_an_image_without_a_shell_is_refused_before_it_starts(docker_daemon: Daemon, tmp_path: Path) -> None:
    image = imported(docker_daemon, "shell-less:1", hello=b"hello")

    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            for _ in range(2):
                with pytest.raises(
                    EngineRejected, match="the image has no /bin/sh: commands are started by a shell"
                ) as no:
                    await engine.create(order("echo never", image=image))
                assert no.value.reason == Reason.START_FAILED
            assert await asked(docker_daemon, "ps", "-aq") == ""
            assert not list((tmp_path / "root" / "objects").iterdir())
            assert await output(engine, order("echo fine")) == "fine\n", "and that was not learnt about all images"

    asyncio.run(scenario())


def test_the_exit_code_is_the_shells_own(docker_daemon: Daemon, tmp_path: Path) -> None:
    codes = {
        "no-such-program --flag": 127,
        "./relative.sh": 127,
        "/etc/passwd": 126,
        "touch /root/x; /root/x": 126,
        "kill -TERM $$; sleep 1": 143,
        "exit 254": 254,
        "echo 'unfinished": 2,
    }

    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            found = await asyncio.gather(*(ended(engine, order(cmd)) for cmd in codes))
            assert {seen.reason for seen in found} == {None}
            assert {seen.message for seen in found} == {""}
            assert [seen.exit_code for seen in found] == list(codes.values())

    asyncio.run(scenario())


@pytest.mark.parametrize("image", [BASH, BUSYBOX])
def test_odd_values_arrive_as_they_are(image: str, docker_daemon: Daemon, tmp_path: Path) -> None:
    names = " ".join(ODD)
    cmd = f"set -- {names}; {TELL}; echo; . {PROFILE}; {TELL}"

    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            run = dataclasses.replace(order(cmd, image=image), env=MappingProxyType(ODD))
            told = "".join(f"{name}={value}|" for name, value in ODD.items())
            assert await output(engine, run) == f"{told}\n{told}", "in the process, and in a shell that comes later"

    asyncio.run(scenario())


def test_a_command_is_run_as_it_is_written(docker_daemon: Daemon, tmp_path: Path) -> None:
    cmd = "cat <<'EOF'\n  $HOME `x` \\ 'q' \"d\"\n\n模型\nEOF\n# comment\necho \"$#\" \\\n  last"

    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            assert await output(engine, order(cmd)) == "  $HOME `x` \\ 'q' \"d\"\n\n模型\n0 last\n"

    asyncio.run(scenario())


def test_variables_that_a_shell_keeps_for_itself_do_not_stop_it(docker_daemon: Daemon, tmp_path: Path) -> None:
    base = docker_daemon.docker("run", "--detach", BASH, "sh", "-c", "cp /bin/bash /bin/new; mv /bin/new /bin/sh")
    docker_daemon.docker("wait", base)
    docker_daemon.docker("commit", base, "sh-is-bash:1")

    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            for image in ("sh-is-bash:1", BASH, BUSYBOX):
                run = order("echo $WORD $PATH", image=image, UID="7", PPID="7", WORD="here", PATH="/bin", _="x")
                assert (await output(engine, run)).endswith("here /bin\n"), image

    asyncio.run(scenario())


def test_a_path_of_the_users_own_does_not_keep_the_command_from_starting(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            assert await output(engine, order("echo started with $PATH", PATH="/opt/app")) == "started with /opt/app\n"

    asyncio.run(scenario())


def test_both_files_tell_the_platforms_variables_line_by_line(docker_daemon: Daemon, tmp_path: Path) -> None:
    platform = {"AutoDLContainerUUID": "0123456789-abc", "MUSTER_DEPLOYMENT_NAME": "it's mine"}
    line = "grep '^export AutoDLService6006URL=' {0} | head -n 1"

    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            cmd = f"{line.format(HELP)}; {line.format(PROFILE)}; cat {HELP}; echo; sleep 100"
            run = dataclasses.replace(order(cmd), env={**platform, "SECRET": "s"})
            begun = await launch(engine, run)
            address = begun.addresses[6006]
            lines = (await until_seen(engine, run, "\n\n")).rstrip().splitlines()
            wanted = f"export AutoDLService6006URL=http://{address.host}:{address.port}"
            assert lines[:2] == [wanted, wanted]
            assert sorted(line.split("=")[0] for line in lines[2:]) == [
                f"export {name}"
                for name in (
                    "AutoDLContainerUUID", "AutoDLService6006URL", "AutoDLService6008URL", "AutoDLServiceURL",
                    "MUSTER_DEPLOYMENT_NAME",
                )
            ]  # fmt: skip
            login = ("exec", docker_name(run), "sh", "-c", f". {PROFILE}; echo $MUSTER_DEPLOYMENT_NAME $SECRET")
            assert await asked(docker_daemon, *login) == "it's mine s"
            shell = ("exec", "--user", "1000", *login[1:])
            assert await asked(docker_daemon, *shell) == "it's mine", "others than root read no secret"

    asyncio.run(scenario())


def test_the_host_name_has_autodls_form(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            run = order("hostname")
            assert await output(engine, run) == f"autodl-container-{run.uuid}\n"
            long = dataclasses.replace(order("hostname"), uuid=ContainerUuid("0123456789-" * 9))
            name = (await output(engine, long)).strip()
            assert len(name) <= 63
            assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)

    asyncio.run(scenario())


def test_the_three_folders_are_mounted_and_public_data_cannot_be_changed(docker_daemon: Daemon, tmp_path: Path) -> None:
    shared, public = tmp_path / "shared", tmp_path / "public"
    for folder in (shared, public):
        folder.mkdir()
        (folder / "word").write_text(f"{folder.name}\n")
    cmd = (
        "cd /root; cat autodl-fs/word autodl-pub/word; echo new > autodl-fs/new; echo big > autodl-tmp/big;"
        "(echo bad > autodl-pub/bad) 2>/dev/null || echo read-only"
    )

    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path, storage_of=lambda *_: Storage(shared, public)) as engine:
            assert await output(engine, order(cmd)) == "shared\npublic\nread-only\n"
        assert (shared / "new").read_text() == "new\n"
        assert sorted(path.name for path in public.iterdir()) == ["word"]
        (folder,) = (tmp_path / "root" / "objects").iterdir()
        assert (folder / "tmp" / "big").read_text() == "big\n"

    asyncio.run(scenario())


def test_an_image_without_a_home_of_root_gets_one(docker_daemon: Daemon, tmp_path: Path) -> None:
    box = images.busybox(tmp_path).layers[0].path
    with tarfile.open(box) as archive:
        member = archive.extractfile("bin/busybox")
        assert member is not None
        program = member.read()
    image = imported(docker_daemon, "homeless:1", bin_sh=program)

    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            assert await output(engine, order("pwd; echo fine", image=image)) == "/root\nfine\n"

    asyncio.run(scenario())


def test_a_start_that_was_ordered_twice_runs_the_command_once(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            run = order("echo ran >> /root/autodl-tmp/runs; exit 3")
            before = await ended(engine, run)
            await asked(docker_daemon, "start", docker_name(run))
            await asked(docker_daemon, "wait", docker_name(run))
            after = await engine.observe(run.ref)
            assert (before.exit_code, after.exit_code, after.reason) == (3, None, Reason.ERROR)
            assert after.message == "it was started twice and ran once; how it ended was not seen"
            assert await output_of(engine, run.ref) == b""
            assert (await engine.start(run.ref)).phase is Phase.EXITED
        (folder,) = (tmp_path / "root" / "objects").iterdir()
        assert (folder / "tmp" / "runs").read_text() == "ran\n"

    asyncio.run(scenario())


def test_the_init_reaps_what_the_command_leaves_behind(docker_daemon: Daemon, tmp_path: Path) -> None:
    cmd = (
        "for n in 1 2 3; do (sleep 0 & exec true); done; while ps -o stat | grep -q Z; do sleep 0.1; done; echo none;"
        " ps -o pid,args | head -n 2"
    )

    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            zombies, _, first = (await output(engine, order(cmd))).splitlines()
            assert zombies == "none", "or the wait for that would not have ended"
            assert first.split()[:2] == ["1", "/sbin/docker-init"]

    asyncio.run(scenario())


END_WELL = "sleep 0.3; echo goodbye > /root/autodl-tmp/said; exit 0"
TOLD = f"sh -c 'trap \"{END_WELL}\" TERM; echo up; while :; do sleep 0.01; done' 2>/dev/null"


@pytest.mark.parametrize("image", [BASH, BUSYBOX])
def test_the_order_to_end_reaches_what_the_command_started_and_leaves_it_time(
    image: str, docker_daemon: Daemon, tmp_path: Path
) -> None:
    cmds = (f"cd /; {TOLD}", f"cd /root && {TOLD}; echo after", f"{TOLD} | tee log", f"{TOLD} & wait")

    async def play(engine: DockerEngine, cmd: str) -> None:
        run = order(cmd, image=image)
        await launch(engine, run)
        await until_output(engine, run.ref)
        await engine.stop(run.ref, StopOrder(term_seconds=10))
        seen = await until(engine, run.ref, Phase.EXITED)
        assert (seen.exit_code, seen.reason) in {(143, None), (0, None)}
        assert await output_of(engine, run.ref) == b"up\n"

    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            await asyncio.gather(*(play(engine, cmd) for cmd in cmds))

    asyncio.run(scenario())
    folders = list((tmp_path / "root" / "objects").iterdir())
    assert [(folder / "tmp" / "said").read_text() for folder in folders] == ["goodbye\n"] * len(cmds)


def test_signals_that_mean_something_to_the_command_end_nothing_else(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            run = order("trap 'echo reloaded' HUP; echo up; while :; do sleep 0.01; done")
            await launch(engine, run)
            await until_output(engine, run.ref)
            await asked(docker_daemon, "kill", "--signal", "HUP", docker_name(run))
            await until_seen(engine, run, "reloaded")
            assert (await engine.observe(run.ref)).phase is Phase.RUNNING
            run = order("trap 'exit 3' HUP USR1; echo up; while :; do sleep 0.01; done")
            await launch(engine, run)
            await until_output(engine, run.ref)
            await asked(docker_daemon, "kill", "--signal", "USR1", docker_name(run))
            seen = await until(engine, run.ref, Phase.EXITED)
            assert (seen.exit_code, seen.reason) == (3, None), "its own way to end"

    asyncio.run(scenario())
