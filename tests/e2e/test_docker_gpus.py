"""Two containers never hold one GPU, however fast they come and go, by Docker's word and by their own."""

import random
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from muster.client import Container
from tests.docker import gpu
from tests.docker.daemon import Daemon
from tests.e2e.docker_world import Box, DockerWorld, host_of
from tests.e2e.world import assert_legal

pytestmark = pytest.mark.docker

GPUS = 4
ROUNDS = 30
SEED = 20261124
FILE = """
name: {name}
replicas: 0
image: bash
gpu: RTX 4090:{gpus}
reuse: all
cmd: |
  read -r visible <{visible} || true  # not by $(cat): bash leaves it empty if a TERM comes meanwhile
  say() {{ echo "$AutoDLContainerUUID $visible $MUSTER_GPU_INDICES $1 $EPOCHREALTIME" >>/root/autodl-fs/log; }}
  trap 'say end; exit 0' TERM
  say begin
  httpd -f -p 6006 -h /tmp & wait
"""


@pytest.fixture
def world(docker_daemon: Daemon, tmp_path: Path) -> Iterator[DockerWorld]:
    with DockerWorld(tmp_path, docker_daemon, host_of(GPUS)) as world:
        yield world


def test_no_gpu_is_held_twice_while_a_full_machine_is_churned(world: DockerWorld) -> None:
    rng = random.Random(SEED)
    single, double = (
        world.apply(FILE.format(name=name, gpus=gpus, visible=gpu.VISIBLE))
        for name, gpus in (("single", 1), ("double", 2))
    )
    for _ in range(ROUNDS):
        for uuid, most in ((single, GPUS + 1), (double, GPUS // 2 + 1)):
            if rng.random() < 0.7:
                scale(world, uuid, rng.randint(0, most))
        stop_one(world, rng, world.live(rng.choice((single, double))))
        running = world.running()
        assert not shared_gpus(world, running), [(box.container_id, box.gpus) for box in running]
    scale(world, double, 1)
    scale(world, single, 2)
    world.until_ready(double, 1)
    world.until_ready(single, 2)
    world.until(lambda: len(world.running()) == 3, "nothing else runs")
    assert sorted(index for box in world.running() for index in box.gpus) == ["0", "1", "2", "3"]

    begun: dict[str, float] = {}
    held: dict[str, list[tuple[float, float]]] = {}
    for line in (world.files / "log").read_text().splitlines():
        words = line.split()
        assert len(words) == 5, f"a container wrote {line!r}"
        uuid, visible, claimed, what, time = words
        assert visible == claimed, line
        if what == "begin":
            assert uuid not in begun, "each was started once"
            begun[uuid] = float(time)
        for index in visible.split(",") if what == "end" else ():
            held.setdefault(index, []).append((begun.get(uuid, float(time)), float(time)))
    assert set(held) == {"0", "1", "2", "3"}
    for index, spans in held.items():
        assert all(end <= begin for (_, end), (begin, _) in pairwise(sorted(spans))), (index, spans)
    assert any(each.reused_from for each in world.live(single) + world.ended(single)), "there was reuse, too"
    assert_legal(world.events())


def scale(world: DockerWorld, uuid: str, replicas: int) -> None:
    world.ask(lambda client: client.scale_deployment(uuid, replicas))


def stop_one(world: DockerWorld, rng: random.Random, live: list[Container]) -> None:
    """Stop one of these, if there is any, so that another takes its place."""
    if live:
        uuid = rng.choice(live).uuid
        world.ask(lambda client: client.stop_container(uuid, decrease_one_replica_num=False, no_cache=False))


def shared_gpus(world: DockerWorld, running: list[Box]) -> list[tuple[Box, Box]]:
    """Return the pairs that held one GPU at one time; one may have ended before the other was looked at."""
    pairs = [(one, other) for one, other in combinations(running, 2) if set(one.gpus) & set(other.gpus)]
    now = {(box.docker_id, box.started_at): box for box in world.boxes()} if pairs else {}
    again = [(now.get((a.docker_id, a.started_at)), now.get((b.docker_id, b.started_at))) for a, b in pairs]
    return [(a, b) for a, b in again if a and b and a.overlaps(b)]
