"""Addresses: every container its own, stable, told everywhere the same, and not anybody else's for a while."""

from dataclasses import replace
from pathlib import Path

import pytest

from muster.controller.ports import PortRanges
from muster.errors import SetupError
from muster.model.container import ContainerStatus
from muster.model.event import EventKind
from muster.model.password import is_password
from muster.model.routes import Refusal, RouteState
from muster.planner.environment import environment
from muster.testing.harness import Harness
from tests.unit.controller.fronted import FRONT, fronted, harness, now, said

__all__ = ["harness"]


def info_of(harness: Harness) -> list[dict[str, object]]:
    listed = harness.call("POST", "/api/v1/dev/deployment/container/list", {"page_size": 100})
    return [each["info"] for each in listed["list"]]


def test_a_container_has_the_same_addresses_in_the_list_the_registry_and_its_environment(harness: Harness) -> None:
    uuid = harness.create()
    harness.settle()
    (info,) = info_of(harness)
    assert info["service_6006_port_url"] == "https://gpu.example:20000"
    assert info["service_6008_port_url"] == "https://gpu.example:20001"
    assert (info["proxy_host"], info["custom_port"]) == ("gpu.example", 20000)
    assert info["ssh_command"] == "ssh -p 25000 root@gpu.example"
    (container,) = harness.running()
    own = environment(harness.deployment(uuid), container, FRONT.front)
    assert own["AutoDLServiceURL"] == own["AutoDLService6006URL"] == "https://gpu.example:20000"
    run = harness.world.run_of(container.id)
    assert run is not None
    assert run.env["AutoDLService6008URL"] == "https://gpu.example:20001"


def test_the_root_password_is_told_to_its_owner_and_its_hash_to_the_ingress(harness: Harness) -> None:
    harness.create()
    harness.settle()
    (info,) = info_of(harness)
    (route,) = harness.ingress.table.routes
    assert route.ssh is not None
    assert is_password(str(info["root_password"]), route.ssh.password_hash)
    assert len(str(info["root_password"])) == 16
    (container,) = harness.running()
    assert str(info["root_password"]) not in container.password, "the database has it sealed"


def test_an_ended_container_is_still_routed_to_say_so_and_its_ports_rest(harness: Harness) -> None:
    harness.create()
    harness.settle()
    (first,) = harness.running()
    harness.stop_container(first)
    harness.settle()
    (second,) = harness.running()
    assert not set(second.listen_ports.values()) & set(first.listen_ports.values())
    states = {route.container_uuid: route for route in harness.ingress.table.routes}
    assert first.uuid is not None
    assert states[first.uuid].state is RouteState.ENDED
    assert "stopped_by_user" in states[first.uuid].message
    assert harness.ingress.begin(first.uuid) is Refusal.ENDED
    harness.advance(700)
    assert [route.container_uuid for route in harness.ingress.table.routes] == [second.uuid]


def test_without_a_free_port_a_container_waits_says_why_and_comes_when_one_has_rested(harness: Harness) -> None:
    uuid = harness.create(replica_num=6)
    harness.advance(20)
    assert len(harness.running()) == 5
    (waiting,) = [each for each in harness.containers(uuid) if each.placement is None]
    explanation = harness.explain(waiting.id)
    assert explanation is not None
    assert explanation.sentence().startswith("no address is free")
    told = harness.do(harness._api.get(f"/api/v1/muster/deployments/{uuid}/explain")).json()
    assert (told["text"], told["placing_num"]) == ("1 of 6 containers wait for an address", 0)
    assert [row["text"] for row in told["unfit"]] == [explanation.sentence()]
    harness.scale(uuid, 5)
    harness.settle()
    harness.stop_container(harness.running()[0])
    harness.advance(300)
    assert len(harness.running()) == 4
    harness.advance(400)
    assert len(harness.running()) == 5


def test_a_port_that_cannot_be_opened_is_changed_and_the_change_is_told(harness: Harness) -> None:
    uuid = harness.create(replica_num=2)
    harness.settle()
    first, second = harness.running(uuid)
    harness.ingress.taken = dict.fromkeys((20000, 20002, 20004), "Address already in use")
    harness.advance(10)
    moved = now(harness, first)
    assert moved.listen_ports[6008] == 20001
    assert not {*moved.listen_ports.values(), *now(harness, second).listen_ports.values()} & {20000, 20002, 20004}
    told = said(harness, first, EventKind.ADDRESS)
    assert told[0] == f"port 20000 cannot be opened (Address already in use): {told[0].split()[-2]} instead"
    assert info_of(harness)[1]["custom_port"] == moved.listen_ports[6006]
    assert moved.status is ContainerStatus.RUNNING, "it went on"


def test_a_port_that_fails_for_a_moment_is_kept(harness: Harness) -> None:
    harness.create()
    harness.settle()
    harness.ingress.taken = {20000: "Address already in use"}
    harness.advance(1)
    harness.ingress.taken = {}
    harness.advance(60)
    assert harness.running()[0].listen_ports == {6006: 20000, 6008: 20001}


def test_for_want_of_descriptors_no_address_is_changed(harness: Harness) -> None:
    harness.create()
    harness.settle()
    (container,) = harness.running()
    harness.ingress.taken = dict.fromkeys(range(20000, 20010), "Too many open files")
    harness.advance(60)
    assert now(harness, container).listen_ports == container.listen_ports


def test_ranges_of_ports_that_overlap_are_refused() -> None:
    with pytest.raises(SetupError, match=r"share 20005-20009"):
        PortRanges(range(20000, 20010), range(20005, 20100))


def test_addresses_survive_a_restart_of_the_server_and_its_tables_are_of_a_later_epoch(harness: Harness) -> None:
    harness.create(replica_num=2)
    harness.settle()
    before = harness.ingress.table
    harness.crash()
    harness.advance(40)
    after = harness.ingress.table
    assert after.routes == before.routes
    assert after.epoch > before.epoch


def test_a_server_whose_clock_is_behind_that_of_the_one_before_is_followed_all_the_same(harness: Harness) -> None:
    harness.create()
    harness.settle()
    harness.ingress.is_away = True
    harness.create()
    harness.advance(5)
    epoch = harness.ingress.table.epoch + 86_400_000
    harness.ingress.table = replace(harness.ingress.table, epoch=epoch)
    harness.ingress.is_away = False
    harness.advance(5)
    assert len(harness.ingress.table.routes) == 2
    assert harness.ingress.table.epoch > epoch


def test_without_an_ingress_containers_have_their_own_addresses_and_no_login(tmp_path: Path) -> None:
    with fronted(tmp_path, front=None) as harness:
        harness.create()
        harness.settle()
        (info,) = info_of(harness)
        assert str(info["service_6006_port_url"]).startswith("http://")
        assert (info["ssh_command"], info["root_password"]) == ("", "")
