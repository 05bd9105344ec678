"""Server and dockerd are killed again and again during churn; when they may rest, Docker holds exactly what is wanted.

Two storms, one on a daemon that leaves its containers running when it ends and one on a daemon that ends them: fifty
kills of the server and ten ends of dockerd in all.
"""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from tests.docker import remains
from tests.docker.daemon import Daemon
from tests.docker.fixtures import OwnDaemon
from tests.e2e.docker_world import Box, DockerWorld, host_of
from tests.e2e.world import assert_legal

pytestmark = pytest.mark.docker

KILLS = 25
DAEMON_ENDS = 5
GPUS = 6
MOST = {"single": 4, "double": 2}
LAST = {"single": 2, "double": 1}
SEED = 20261124
REST_SECONDS = 90.0
FILE = """
name: {name}
replicas: 1
image: bash
gpu: RTX 4090:{gpus}
reuse: all
service: {{health_check: none}}
cmd: |
  echo "$AutoDLContainerUUID" >>/root/history
  echo "$AutoDLContainerUUID" >>/root/autodl-fs/starts
  exec sleep 1000
"""
FAILED = "SELECT uuid, message FROM containers WHERE reason IN ('start_failed', 'removed_externally')"
CLAIMS = "SELECT count(*) FROM gpu_claims"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("lives_on", [True, False], ids=["live-restore", "plain"])
def test_after_the_storm_docker_holds_exactly_what_is_wanted(
    own_daemon: OwnDaemon, tmp_path: Path, *, lives_on: bool
) -> None:
    daemon = own_daemon(live_restore=lives_on)
    with DockerWorld(tmp_path, daemon, host_of(GPUS)) as world:
        storm = {world.apply(FILE.format(name=name, gpus=gpus)): name for name, gpus in (("single", 1), ("double", 2))}
        for deployment in storm:
            world.until_ready(deployment, 1)
        assert world.up_pid is not None
        world.kill(world.up_pid)  # it waits ever longer between restarts; here the next server starts at once
        rng = random.Random(f"{SEED} {lives_on}")
        ends = [daemon.stop, daemon.kill, *rng.choices((daemon.stop, daemon.kill), k=DAEMON_ENDS - 2)]
        for kill in range(KILLS):
            churn(world, storm, rng)
            time.sleep(rng.uniform(0, 1.5))  # the moment is the input: anywhere in what the server does now
            end = ends.pop() if kill % (KILLS // DAEMON_ENDS) == 2 else None
            if end is not None and rng.random() < 0.5:
                end_daemon(world, daemon, storm, rng, end)
                end = None
            world.kill(world.server_pid)
            if end is not None:
                end()
            if rng.random() < 0.3:  # also while it starts
                with world.start_server() as server:
                    time.sleep(rng.uniform(0, 0.7))
                    server.kill()
            world.start_server()
            daemon.start()
        assert not ends
        world.kill(world.server_pid)
        world.up()
        for deployment, name in storm.items():
            world.scale(deployment, LAST[name])
        settle(world, storm)
        check(world, storm)


def churn(world: DockerWorld, storm: Mapping[str, str], rng: random.Random) -> None:
    """Want other numbers of containers, and perhaps end one; by its end it makes room, or another follows."""
    for deployment, name in storm.items():
        world.scale(deployment, rng.randint(0, MOST[name]))
    if rng.random() < 0.5:
        found: list[str] = []
        world.hear(lambda client: found.extend(each.uuid for each in client.containers() if each.status != "shutdown"))
        if found:
            uuid, decrease = rng.choice(sorted(found)), rng.random() < 0.5
            world.hear(lambda client: client.stop_container(uuid, decrease_one_replica_num=decrease, no_cache=False))


def end_daemon(
    world: DockerWorld, daemon: Daemon, storm: Mapping[str, str], rng: random.Random, end: Callable[[], None]
) -> None:
    """End dockerd under a server that works, go on wanting things meanwhile, and start it again."""
    end()
    time.sleep(rng.uniform(0, 0.5))
    churn(world, storm, rng)
    daemon.start()
    time.sleep(rng.uniform(0, 1.5))  # the server is killed somewhere in what it makes of that


def settle(world: DockerWorld, storm: Mapping[str, str]) -> None:
    """Wait until nothing changes any more: what is wanted runs, and Docker has what the database says and no more."""

    def is_settled() -> bool:
        live = {each.uuid for deployment in storm for each in world.live(deployment) if each.is_ready}
        boxes = world.boxes()
        running = world.uuids([box for box in boxes if box.is_running])
        is_enough = len(live) == sum(LAST.values()) and running == live
        # A shell becomes what it runs in its own time; and the kernel has to agree.
        is_asleep = len(sleeping(world)) == sum(LAST.values())
        return is_enough and is_asleep and {box.container_id for box in boxes} == world.unreleased()

    world.until(is_settled, "what Docker has is what the database says", REST_SECONDS)


def check(world: DockerWorld, storm: Mapping[str, str]) -> None:
    """See that nothing is left over, started twice or lost."""
    boxes = world.boxes()
    gpus = [index for box in boxes if box.is_running for index in box.gpus]
    assert len(set(gpus)) == len(gpus) == LAST["single"] + 2 * LAST["double"]
    assert world.rows(CLAIMS) == [(len(gpus),)], "nobody else holds a GPU"
    assert world.folders() == {box.folder for box in boxes}, "no folder without an object"
    assert set(world.copied_images()) == {box.copied_image for box in boxes} - {""}, "no copy that nobody uses"

    assert world.rows(FAILED) == [], "whatever was ended amid a start could be started"
    started = Counter((world.files / "starts").read_text().split())
    assert set(started.values()) == {1}, "no container ran twice"
    rows = world.rows("SELECT id, uuid, reused_from FROM containers WHERE uuid IS NOT NULL")
    names = {container_id: uuid for container_id, uuid, _ in rows}
    before = {uuid: reused_from for _, uuid, reused_from in rows}
    assert set(started) <= set(before)
    for box in boxes:
        history, chain = read_history(world, box), chain_of(names[box.container_id], before)
        assert history == [uuid for uuid in chain if uuid in history], "in the order in which they had the files"
        assert {uuid for uuid in chain if uuid in started} <= set(history), "nothing that was written is lost"
    taken = Counter(uuid for uuid in before.values() if uuid)
    assert taken, "there was reuse, too"

    events = world.events()
    assert_legal(events)
    over = {event.container_uuid for event in events if event.status == "shutdown"}
    assert {event.container_uuid for event in events} - over == world.uuids(world.running())


def sleeping(world: DockerWorld) -> list[int]:
    """Return the processes that containers of the daemon have been started for."""
    found = []
    for process in remains.processes(world.daemon.folder, world.daemon.cgroup):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [process.pid] if process.name() == "sleep" else []
    return found


def read_history(world: DockerWorld, box: Box) -> list[str]:
    """Return who wrote into a container's own disk, running or not."""
    found = world.read_file(box, "/root/history")
    return [] if found is None else found.split()


def chain_of(uuid: str, before: Mapping[str, str | None]) -> list[str]:
    """Return a container and all that had its files, oldest first."""
    chain = [uuid]
    while (old := before[chain[0]]) is not None:
        chain.insert(0, old)
    return chain
