"""What a container may use of its host: memory, CPU, processes, shared memory, log; and what is told of too much."""

import asyncio
import dataclasses
from pathlib import Path

import pytest

from muster.engine.docker import spec
from muster.engine.docker.engine import DockerEngine
from muster.engine.port import ContainerRun, Observation
from muster.model.container import Reason
from muster.model.quantity import GIB
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BUSYBOX
from tests.unit.engine.docker.opened import asked, docker_name, ended, opened, order, output

pytestmark = pytest.mark.docker

MIB = 2**20
EAT = "head -c 200m /dev/zero | tail -c 190m > /dev/null"
"""Wants far more memory than any container here has; ``tail`` holds it."""
LIMITS = """
read_one() { for file; do if [ -r "$file" ]; then cat "$file"; return; fi; done; }
cd /sys/fs/cgroup
read_one memory.max memory/memory.limit_in_bytes
read_one memory.swap.max memory/memory.memsw.limit_in_bytes
read_one cpu.max cpu/cpu.cfs_quota_us
read_one pids.max pids/pids.max
"""
"""Cgroups of either version: memory, memory with swap (of version 2: swap alone), CPU time, processes."""


def limited(cmd: str, *, memory_bytes: int = 0, cpu_num: int = 1, gpu_num: int = 0) -> ContainerRun:
    run = order(cmd)
    return dataclasses.replace(
        run, memory_bytes=memory_bytes, cpu_num=cpu_num, gpu_indices=tuple(range(gpu_num)), image=order().image
    )


async def limits_of(engine: DockerEngine, run: ContainerRun) -> list[int]:
    """Return what a container reads as its limits: memory, memory with swap, CPU time (ms in 100 ms), processes."""
    words = (await output(engine, run)).split()
    memory, swap, cpu, *_, pids = words
    if len(words) == 5:  # version 2 writes the period behind the time, and counts swap for itself
        swap = str(int(memory) + int(swap))
    return [int(memory), int(swap), int(cpu) // 1000, int(pids)]


@pytest.mark.parametrize(
    "cmd",
    [f"exec sh -c '{EAT}'", f"({EAT}); exit 1", f"{EAT}; kill -9 $$"],
    ids=["the command", "a child, and the command fails of it", "a child, and the command is killed"],
)
def test_what_wants_more_memory_than_it_has_is_killed_and_told_so(
    cmd: str, docker_daemon: Daemon, tmp_path: Path
) -> None:
    async def scenario() -> Observation:
        async with opened(docker_daemon, tmp_path) as engine:
            return await ended(engine, limited(cmd, memory_bytes=32 * MIB))

    seen = asyncio.run(scenario())
    assert seen.exit_code in (1, 137)
    assert (seen.reason, seen.message) == (
        Reason.OOM_KILLED,
        "a process of it was killed because the container's memory was used up",
    )


def test_a_command_that_copes_with_the_loss_of_a_child_has_succeeded(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            for _ in range(5):
                seen = await ended(engine, limited(f"({EAT}); exit 0", memory_bytes=32 * MIB))
                if seen.exit_code == 0:
                    assert (seen.reason, seen.message) == (None, "")
                    return
                # A child that takes its time to die has the kernel look for another one, and find its parent.
                assert (seen.exit_code, seen.reason) == (137, Reason.OOM_KILLED)
            pytest.fail("the command was always killed, too")

    asyncio.run(scenario())


def test_a_command_that_fails_of_itself_is_not_told_to_be_out_of_memory(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            seen = await ended(engine, limited("kill -9 $$", memory_bytes=32 * MIB))
            assert (seen.exit_code, seen.reason) == (137, None)

    asyncio.run(scenario())


def test_limits_are_those_of_the_order(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            run = limited(f"{LIMITS}df -k /dev/shm | tail -n 1", memory_bytes=64 * MIB, cpu_num=1)
            *_, shared_kib = (await output(engine, run)).split()[:-4]
            assert int(shared_kib) == 32 * 1024
            run = limited(LIMITS, memory_bytes=64 * MIB, cpu_num=1, gpu_num=2)
            assert await limits_of(engine, run) == [64 * MIB, 64 * MIB, 100, 2 * spec.PIDS_PER_UNIT]

    asyncio.run(scenario())


def test_limits_of_processes_are_raised_where_docker_can(docker_daemon: Daemon, tmp_path: Path) -> None:
    tell = "ulimit -n; ulimit -l"
    raised = [f"--ulimit={each.name}={each.value}" for each in spec.ULIMITS]
    try:
        expected = docker_daemon.docker("run", "--rm", *raised, BUSYBOX, "sh", "-c", tell)
        assert expected.split() == ["1048576", "unlimited"]
    except RuntimeError:  # a host that does not let its daemon do that
        expected = docker_daemon.docker("run", "--rm", BUSYBOX, "sh", "-c", tell)

    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            assert (await output(engine, order(tell))).split() == expected.split()

    asyncio.run(scenario())


def test_more_than_the_host_has_is_cut_to_what_it_has(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            run = limited(LIMITS, memory_bytes=1024 * 1024 * GIB, cpu_num=4096)
            host_cpu_num, host_bytes = (
                await asked(docker_daemon, "info", "--format", "{{.NCPU}} {{.MemTotal}}")
            ).split()
            memory, swap, cpu, _ = await limits_of(engine, run)
            assert memory == swap == int(host_bytes) // 4096 * 4096
            assert cpu == 100 * int(host_cpu_num)

    asyncio.run(scenario())


def test_a_fork_bomb_ends_at_the_limit_of_its_own_container(
    docker_daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec, "PIDS_PER_UNIT", 40)
    bomb = "n=0; while [ $n -lt 100 ]; do sleep 100 & n=$((n + 1)); done; echo not stopped"

    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            text = await output(engine, limited(bomb))
            assert "can't fork" in text
            assert "not stopped" not in text

    asyncio.run(scenario())


def test_a_log_keeps_its_newest_part_and_no_more(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            run = limited("head -c 60m /dev/zero | tr '\\0' x | fold -w 8000; echo; echo the end")
            assert (await output(engine, run)).endswith("the end\n")
            path = await asked(docker_daemon, "inspect", "--format", "{{.LogPath}}", docker_name(run))
            sizes = [each.stat().st_size for each in Path(path).parent.glob("*-json.log*")]
            assert 1 < len(sizes) <= 3
            assert sum(sizes) < 33_000_000

    asyncio.run(scenario())


def test_a_container_that_is_used_again_as_it_is_has_the_new_limits(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            old = limited(LIMITS, memory_bytes=64 * MIB, cpu_num=1)
            assert await limits_of(engine, old) == [64 * MIB, 64 * MIB, 100, spec.PIDS_PER_UNIT]
            (docker_id,) = (await asked(docker_daemon, "ps", "-aq")).split()
            for memory_bytes, cpu_num, gpu_num in ((128 * MIB, 2, 3), (32 * MIB, 1, 1)):
                changed = dataclasses.replace(
                    limited(LIMITS, memory_bytes=memory_bytes, cpu_num=cpu_num, gpu_num=gpu_num),
                    takes_over=old.ref,
                )
                limits = await limits_of(engine, changed)
                assert limits == [memory_bytes, memory_bytes, 100 * cpu_num, gpu_num * spec.PIDS_PER_UNIT]
                old = changed
            assert (await asked(docker_daemon, "ps", "-aq")).split() == [docker_id]

    asyncio.run(scenario())
