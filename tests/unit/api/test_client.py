"""The client against the real API on loopback: what it returns, raises and yields."""

import datetime
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from queue import Queue

import httpx
import pytest

from muster.client import Client, Event, Stock
from muster.errors import ApiError, ApiUnavailable, CursorExpired, InvalidSpec, NotFound, Unauthenticated
from muster.model.container import ContainerStatus
from muster.model.endpoint import EndpointSet, ServiceKey
from tests.compat.world import ADMIN, GIB, MACHINES, MEMBER, World, body
from tests.unit.api.served import Server, on_stage


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("furnished")
    World.furnish(folder)
    return folder / "muster.db"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with closing(Server()) as opened:
        yield opened


@pytest.fixture
def world(server: Server, furnished: Path, tmp_path: Path) -> Iterator[World]:
    shutil.copy(furnished, tmp_path)
    with on_stage(server, tmp_path) as opened:
        yield opened


@pytest.fixture
def client(server: Server, world: World) -> Iterator[Client]:
    with Client(server.url, ADMIN, timeout=10) as opened:
        yield opened


def test_a_deployment_is_created_scaled_stopped_and_deleted(client: Client) -> None:
    uuid = client.create_deployment(body(replica_num=0))
    client.scale_deployment(uuid, 3)
    (row,) = client.deployments()
    assert (row.uuid, row.name, row.type, row.status, row.replica_num) == (uuid, "asr", "ReplicaSet", "running", 3)
    assert (row.gpu_names, row.gpu_num) == (("RTX 4090",), 1)
    assert row.created_at.utcoffset() == datetime.timedelta(hours=8)
    client.stop_deployment(uuid)
    (row,) = client.deployments(name="asr", status="stopped")
    assert row.stopped_at is not None
    client.delete_deployment(uuid)
    assert list(client.deployments()) == []
    with pytest.raises(NotFound, match=uuid):
        client.deployment(uuid)


def test_the_detail_holds_a_spec_that_a_check_gives_back(client: Client, world: World) -> None:
    uuid = client.create_deployment(body())
    world.want(uuid)
    detail = client.deployment(uuid)
    assert detail.spec == client.check_deployment(body())
    assert detail.spec == client.check_deployment(detail.spec)
    assert detail.version == "v1"
    assert [each.explanation for each in detail.unplaced] == ["not looked at yet"]


def test_lists_are_read_to_their_last_page(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.client.client._PAGE_SIZE", 2)
    uuids = [client.create_deployment(body(name=f"d{number}")) for number in range(5)]
    assert [each.uuid for each in client.deployments()] == uuids[::-1]


def test_containers_come_with_addresses_and_reasons(client: Client, world: World) -> None:
    uuid = client.create_deployment(body())
    placed = world.up(world.place(uuid))
    (container,) = client.containers(uuid, statuses=["running"])
    assert container == client.containers_of(uuid)[0]
    assert container.uuid == placed.uuid
    assert container.url_6006 == "http://127.0.0.1:40001"
    assert (container.memory_bytes, container.price_milliyuan, container.is_ready) == (64 * GIB, 1980, True)
    client.stop_container(container.uuid, decrease_one_replica_num=True, no_cache=True)
    assert next(client.containers()).status == "shutting_down"
    assert next(client.deployments()).replica_num == 1
    assert next(client.container_events(uuid)).reason == "stopped_by_user"


def test_machines_stock_images_and_health(client: Client, world: World) -> None:
    world.place(client.create_deployment(body()), gpu=1)
    machine = client.machines()[0]
    assert (machine.id, machine.claimed_gpus, machine.idle_gpu_num) == (MACHINES[0].id, (1,), 3)
    assert client.stock(data_centers=["lab-a"]) == [Stock("RTX 4090", 7, 8, "nvidia", "x86", {1: 7, 2: 3, 4: 1, 8: 0})]
    assert [each.name for each in client.base_images()] == ["local"]
    assert list(client.private_images()) == []
    assert client.is_alive()
    world.is_ready = False
    assert not client.is_ready()


def test_the_catalogue_is_read_and_changed(client: Client, world: World) -> None:
    bound = client.add_image("asr", "lab:5000/team/asr:1")
    assert (bound.image.name, bound.rebound, bound.outdated_on) == ("asr", False, ())
    assert [each.name for each in client.catalogue()] == ["asr", "local"]
    assert client.catalogue()[0] == bound.image
    assert bound.image.created_at.utcoffset() == datetime.timedelta(hours=8)
    wanted = client.prewarm_image(bound.image.uuid, data_centers=["lab-b"])
    assert [(each.machine_id, each.state) for each in wanted] == [(MACHINES[2].id, "wanted")]
    assert client.prewarms(bound.image.uuid) == wanted
    again = client.add_image("asr", "lab:5000/team/asr:2")
    assert (again.rebound, again.old_reference, again.old_digest) == (True, "lab:5000/team/asr:1", "")
    container = world.up(world.place(client.create_deployment(body())))
    assert container.uuid is not None
    saved = client.save_image(container.uuid, "mine")
    assert (saved.status, saved.source_container_uuid) == ("saving", container.uuid)
    assert client.remove_image(saved.uuid) == saved
    with pytest.raises(ApiError, match="no image"):
        client.remove_image(saved.uuid)
    with pytest.raises(NotFound, match="no container 'x'"):
        client.save_image("x", "other")


def test_a_registry_is_logged_in_to_and_out_of(client: Client) -> None:
    client.put_registry("lab:5000", "ann", "secret")
    assert client.registries() == ["lab:5000"]
    client.remove_registry("lab:5000")
    assert client.registries() == []
    with pytest.raises(NotFound, match="no registry 'lab:5000'"):
        client.remove_registry("lab:5000")


def test_endpoints_are_those_of_the_registry(client: Client, world: World) -> None:
    published = EndpointSet(1, 1, (), datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC))
    world.run(world.registry.publish(ServiceKey("admin", "asr"), published))
    assert client.endpoints("asr") == published
    with pytest.raises(NotFound, match="nobody"):
        client.endpoints("nobody")


def test_accounts_and_tokens(client: Client, server: Server) -> None:
    assert client.create_account("team-a").role == "member"
    token = client.create_token("team-a")
    with Client(server.url, token) as team:
        assert team.me().name == "team-a"
        with pytest.raises(ApiError) as refused:
            team.accounts()
    assert refused.value.status == 403
    assert [each.name for each in client.accounts()] == ["member", "admin", "team-a"]
    with pytest.raises(NotFound, match="no account 'a b'"):
        client.create_token("a b")


def test_a_refusal_names_code_field_and_request_id(client: Client) -> None:
    with pytest.raises(ApiError, match=r"RequestParameterIsWrong: .*container_template\.gpu_num") as refused:
        client.create_deployment(body(template__gpu_num=0))
    assert refused.value.code == "RequestParameterIsWrong"
    assert len(refused.value.request_id) == 32
    with pytest.raises(ApiError, match=r"container_template\.gpu_num: must be at least 1") as refused:
        client.check_deployment(body(template__gpu_num=0))
    assert refused.value.status == 422
    assert len(refused.value.request_id) == 32


def test_an_unknown_token_is_unauthenticated_on_both_kinds_of_paths(server: Server, world: World) -> None:
    with Client(server.url, "wrong") as client:
        with pytest.raises(Unauthenticated):
            client.me()
        with pytest.raises(Unauthenticated):
            list(client.deployments())
        with pytest.raises(Unauthenticated):
            next(client.events())


def test_another_accounts_things_are_not_found(client: Client, world: World) -> None:
    uuid = world.create(token=MEMBER)
    container = world.place(uuid)
    assert container.uuid is not None
    for call in (client.stop_deployment, client.delete_deployment, client.containers_of, client.deployment):
        with pytest.raises(NotFound, match=uuid):
            call(uuid)
    with pytest.raises(NotFound, match=container.uuid):
        client.stop_container(container.uuid)
    with pytest.raises(NotFound, match=container.uuid):
        next(client.logs(container.uuid))


def test_logs_are_streamed(client: Client, world: World) -> None:
    container = world.place(client.create_deployment(body()))
    assert container.uuid is not None
    output = b"".join(client.logs(container.uuid, tail=7, follow=True)).decode()
    assert output == f"{container.id} {MACHINES[0].id} tail=7 follow=True\n"


def test_events_are_yielded_as_they_are_committed(client: Client, world: World) -> None:
    uuid = client.create_deployment(body())
    container = world.place(uuid)
    events = client.events(after=0)
    first = next(events)
    assert (first.status, first.container_uuid) == ("creating", container.uuid)
    for status in (ContainerStatus.CREATED, ContainerStatus.STARTING):
        world.advance(container, status)
        assert next(events).status == status
    events.close()  # type: ignore[attr-defined]


def test_a_stream_from_now_shows_only_what_comes(client: Client, world: World) -> None:
    container = world.place(client.create_deployment(body()))
    seen: Queue[Event] = Queue()
    events = client.events()
    reader = threading.Thread(target=lambda: seen.put(next(events)))
    reader.start()
    while reader.is_alive() and seen.empty():  # it begins at a moment that nobody tells: go on until it sees one
        world.advance(container, ContainerStatus.CREATING)
        reader.join(0.02)
    reader.join(10)
    assert seen.get(timeout=1).id > 1
    events.close()  # type: ignore[attr-defined]


def test_events_without_follow_end_with_the_newest(client: Client, world: World) -> None:
    uuid, other = client.create_deployment(body()), client.create_deployment(body())
    world.up(world.place(uuid))
    world.place(other, gpu=1)
    events = list(client.events(after=0, follow=False))
    assert [each.status for each in events] == [
        "creating",
        "created",
        "starting",
        "oss_merged",
        "running",
        "creating",
    ]
    assert list(client.events(after=events[-1].id, follow=False)) == []
    assert len(list(client.events(after=0, deployment_uuid=other, follow=False))) == 1


def test_a_cursor_that_the_log_does_not_know_is_expired(client: Client) -> None:
    with pytest.raises(CursorExpired, match="999"):
        next(client.events(after=999))


def test_a_server_that_goes_away_ends_a_stream_with_an_error(furnished: Path, tmp_path: Path) -> None:
    shutil.copy(furnished, tmp_path)
    with (
        closing(Server()) as server,
        on_stage(server, tmp_path) as world,
        Client(server.url, ADMIN, timeout=10) as client,
    ):
        world.place(world.create())
        events = client.events(after=0)
        next(events)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        with pytest.raises(ApiUnavailable):
            next(events)
        stopping.join(10)
        with pytest.raises(ApiUnavailable, match="cannot reach"):
            client.me()


def test_nobody_there_is_one_line_that_says_what_to_do() -> None:
    with Client("http://127.0.0.1:9") as client:
        with pytest.raises(ApiUnavailable) as refused:
            client.me()
        assert not client.is_alive()
    assert str(refused.value) == "cannot reach http://127.0.0.1:9: is `muster up` running?"


@pytest.mark.parametrize(("status", "content"), [(200, b"<html>"), (502, b"Bad gateway"), (200, b"[1]"), (404, b"{}")])
def test_something_else_behind_the_url_is_told_apart(status: int, content: bytes) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=content))
    with Client("http://example.test", "t", transport=transport) as client:
        for call in (client.me, lambda: next(client.deployments()), lambda: next(client.events())):
            with pytest.raises(ApiError, match="does not look like Muster's API"):
                call()


def test_a_server_that_does_not_answer_in_time_is_unavailable() -> None:
    def slow(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("too slow", request=request)

    with (
        Client("http://example.test", transport=httpx.MockTransport(slow), timeout=3) as client,
        pytest.raises(ApiUnavailable, match=r"http://example\.test does not answer"),
    ):
        client.me()


def test_the_token_is_not_shown() -> None:
    with Client("http://127.0.0.1:9", "mst_secret") as client:
        assert "mst_secret" not in repr(client)


@pytest.mark.parametrize("url", ["127.0.0.1:7600", "", "http://", "ftp://127.0.0.1", "http://[::1", "http://a:port"])
def test_what_cannot_be_a_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidSpec, match="url"):
        Client(url)


@pytest.mark.parametrize("token", ["mst_a\n", "mst a", "mst_é", "\0"])
def test_what_cannot_be_a_token_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        Client("http://127.0.0.1:9", token)
    assert token not in str(refused.value)
