"""`muster down` ends everything on purpose, says so in the record, and the next `up` starts what is still wanted."""

import pytest

from tests.e2e.world import World, assert_legal

pytestmark = pytest.mark.slow


def test_what_down_ended_is_started_again_by_the_next_up_and_is_no_sign_of_trouble(world: World) -> None:
    uuid = world.deploy("twice", 2)
    before = {each.uuid for each in world.until_ready(uuid, 2)}
    assert world.cli("down").endswith("ended 2 containers\n")
    assert world.rows("SELECT DISTINCT status, reason FROM containers") == [("shutdown", "host_stopped")]
    world.up()
    after = {each.uuid for each in world.until_ready(uuid, 2)}
    assert not before & after
    ended = [each for each in world.ask(lambda client: client.containers_of(uuid)) if each.uuid in before]
    assert {(each.status, each.reason) for each in ended} == {("shutdown", "host_stopped")}
    assert_legal(world.events())
    world.cli("delete", "twice", "-y")
