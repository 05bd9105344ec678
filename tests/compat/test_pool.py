"""The reuse pool and its figures over HTTP, and what monitoring is told of it."""

import datetime
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from muster.model.container import Container, ContainerStatus, Reason
from muster.model.ids import ContainerUuid, ImageUuid
from tests.compat.world import ADMIN, MACHINES, MEMBER, World

ROOT = "/api/v1/muster"
WEEK = datetime.timedelta(days=7)


def told(world: World, method: str, path: str, *, token: str = ADMIN, status: int = 200) -> Any:
    response = world.send(method, ROOT + path, token=token)
    assert response.status_code == status, response.text
    return response.json()


def pooled(world: World, deployment_uuid: str, *, gpu: int = 0, minutes: int = 0, **changes: Any) -> Container:
    """Bring a container to its end and into the pool, as the loops would."""
    ended_at = world.clock.now() + datetime.timedelta(minutes=minutes)
    ends = {"reason": Reason.SCALED_IN, "stopped_at": ended_at, "is_pooled": True, "discard_at": ended_at + WEEK}
    container = world.up(world.place(deployment_uuid, gpu=gpu))
    return world.advance(container, ContainerStatus.SHUTTING_DOWN, ContainerStatus.SHUTDOWN, **{**ends, **changes})


def started(world: World, deployment_uuid: str, seconds: float, *, gpu: int, reuses: str | None = None) -> Container:
    """Place a container that ran so many seconds later."""
    container = world.place(deployment_uuid, gpu=gpu)
    now = world.clock.now()
    return world.advance(
        container,
        ContainerStatus.RUNNING,
        image=ImageUuid("image-1"),
        image_reference="asr:1",
        placed_at=now,
        started_at=now + datetime.timedelta(seconds=seconds),
        reused_from=None if reuses is None else ContainerUuid(reuses),
    )


def test_the_pool_lists_what_waits_most_recently_stopped_first(world: World) -> None:
    uuid = world.create(reuse_container=True)
    early, late = pooled(world, uuid, gpu=1), pooled(world, uuid, gpu=0, minutes=5)
    pooled(world, uuid, gpu=2, is_pooled=False)
    rows = told(world, "GET", "/pool")["containers"]
    assert [row["uuid"] for row in rows] == [late.uuid, early.uuid]
    row = rows[1]
    assert (row["deployment_uuid"], row["deployment_name"], row["account"]) == (uuid, "asr", "admin")
    assert (row["machine_id"], row["gpu_name"], row["gpu_indices"]) == (MACHINES[0].id, "RTX 4090", [1])
    assert row["reason"] == "scaled_in"
    lasts = datetime.datetime.fromisoformat(row["expires_at"]) - datetime.datetime.fromisoformat(row["stopped_at"])
    assert lasts == WEEK


def test_a_container_tells_whose_files_it_took_over(world: World) -> None:
    uuid = world.create(reuse_container=True)
    old = pooled(world, uuid)
    started(world, uuid, 1, gpu=1, reuses=old.uuid)
    rows = told(world, "GET", f"/deployments/{uuid}/containers")["containers"]
    assert [row["reused_from"] for row in rows] == [None, old.uuid]


def test_the_pool_of_all_accounts_is_for_admins(world: World) -> None:
    ours, theirs = pooled(world, world.create()), pooled(world, world.create(token=MEMBER), gpu=1, minutes=-1)

    def uuids(path: str, token: str) -> list[tuple[str, str]]:
        return [(row["account"], row["uuid"]) for row in told(world, "GET", path, token=token)["containers"]]

    assert uuids("/pool", ADMIN) == [("admin", ours.uuid)]
    assert uuids("/pool", MEMBER) == [("member", theirs.uuid)]
    assert uuids("/pool?all=true", ADMIN) == [("admin", ours.uuid), ("member", theirs.uuid)]
    for path in ("/pool?all=true", "/stats?all=true"):
        assert told(world, "GET", path, token=MEMBER, status=403)["error"]["code"] == "BadRequest"


def test_what_leaves_the_pool_is_to_be_destroyed_now(world: World) -> None:
    container = pooled(world, world.create())
    before = world.clock.now()
    assert told(world, "DELETE", f"/pool/{container.uuid}")["uuid"] == container.uuid
    row = world.row(container)
    assert not row.is_pooled
    assert row.discard_at is not None
    assert before <= row.discard_at <= world.clock.now()
    assert row.released_at is None, "only whoever destroys it may say that it is gone"
    assert told(world, "GET", "/pool")["containers"] == []
    told(world, "DELETE", f"/pool/{container.uuid}", status=404)


def test_only_what_is_in_the_callers_pool_can_leave_it(world: World) -> None:
    theirs, running = pooled(world, world.create(token=MEMBER)), world.up(world.place(world.create(), gpu=1))
    for uuid in (theirs.uuid, running.uuid, "nothing"):
        refusal = told(world, "DELETE", f"/pool/{uuid}", status=404)
        assert refusal["error"]["message"] == f"no container in the pool {uuid!r}"
    assert world.row(theirs).is_pooled
    assert world.row(running).discard_at is None


def test_stats_are_of_starts_that_might_have_reused(world: World) -> None:
    assert told(world, "GET", "/stats") == {
        "starts": 0,
        "reuses": 0,
        "hit_rate": 0.0,
        "seconds_saved": 0.0,
        "pooled": 0,
    }
    uuid = world.create(reuse_container=True)
    started(world, uuid, 60.0, gpu=0)
    started(world, uuid, 0.5, gpu=1, reuses="old")
    started(world, world.create(), 20.0, gpu=2)
    pooled(world, uuid, gpu=3)
    told_of_theirs = world.create(token=MEMBER, reuse_container=True)
    world.up(world.place(told_of_theirs, MACHINES[1]))
    stats = told(world, "GET", "/stats")
    assert (stats["starts"], stats["reuses"], stats["pooled"]) == (3, 1, 1)
    assert abs(stats["hit_rate"] - 1 / 3) < 1e-9
    assert abs(stats["seconds_saved"] - 39.5) < 0.01
    assert told(world, "GET", "/stats?all=true")["starts"] == 4
    assert told(world, "GET", "/stats", token=MEMBER)["starts"] == 1


def scraped(world: World) -> dict[tuple[str, ...], float]:
    """Read one scrape as Prometheus does: name and values of the labels (which it orders by name), to the figure."""
    response = world.send("GET", "/metrics", token="")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_metrics_are_sums_of_everybody_and_need_no_token(world: World) -> None:
    uuid, theirs = world.create(reuse_container=True), world.create(token=MEMBER)
    started(world, uuid, 60.0, gpu=0)
    started(world, uuid, 0.5, gpu=1, reuses="old")
    pooled(world, uuid, gpu=2)
    world.place(theirs, gpu=3)
    world.want(theirs)
    world.write(lambda tx: tx.machines.set_problem(MACHINES[1].id, "does not answer"))
    figures = scraped(world)
    assert figures["muster_container_starts_total",] == 3
    assert figures["muster_container_reuses_total",] == 1
    assert abs(figures["muster_reuse_saved_seconds",] - 59.5) < 0.01
    assert figures["muster_pooled_containers",] == 1
    statuses = {key[1]: value for key, value in figures.items() if key[0] == "muster_containers"}
    assert {status: value for status, value in statuses.items() if value} == {
        "unplaced": 1,
        "creating": 1,
        "running": 2,
    }
    assert "shutdown" not in statuses
    assert figures["muster_deployments", "running"] == 2
    assert figures["muster_deployments", "stopped"] == 0
    here, there = (("lab-a", "RTX 4090", machine.id) for machine in MACHINES[:2])
    assert figures["muster_machine_gpus", *here, "claimed"] == 3
    assert figures["muster_machine_gpus", *here, "idle"] == 1
    assert figures["muster_machine_usable", *here] == 1
    assert figures["muster_machine_usable", *there] == 0


def test_metrics_name_nothing_of_any_account(world: World) -> None:
    uuid = world.create(name="secret-project", token=MEMBER)
    container = world.up(world.place(uuid))
    text = world.send("GET", "/metrics", token="").text
    for word in ("secret-project", "member", uuid, str(container.uuid)):
        assert word not in text
