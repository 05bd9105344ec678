"""Ports of the ingress and SSH keys: a port is one container's, rests after its end, and goes out oldest first."""
# ruff: noqa: D102 - the names of the tests are sentences

from typing import Any

import pytest

from muster.errors import Conflict, StaleWrite
from muster.model.account import Role
from muster.model.container import ContainerStatus, DrainStep
from muster.model.ids import ContainerUuid
from muster.store.port import Changes
from muster.testing.conformance.store.world import OpenStore, World, at, ids, in_a_world

RANGE = range(20000, 20004)
REST_SECONDS = 600


class AddressConformance:
    """``ListenPorts``, ``SshKeys``, and what containers keep of their addresses."""

    def test_ports_that_nobody_had_are_given_from_below(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            assert await free(world, 2, 0) == [20000, 20001]
            deployment = await world.deployment()
            await world.placed(deployment, "a", listen_ports={6006: 20000, 6008: 20001})
            assert await free(world, 3, 0) == [20002, 20003]

        in_a_world(open_store, scenario)

    def test_a_port_belongs_to_one_container(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            await world.placed(deployment, "a", 0, listen_ports={6006: 20000}, ssh_port=25000)
            for fields in ({"listen_ports": {6006: 20000}}, {"listen_ports": {6006: 20001}, "ssh_port": 25000}):
                with pytest.raises(StaleWrite, match=r"port 2\d000 belongs to another container"):
                    await world.placed(deployment, "b", 1, **fields)
            second = await world.placed(deployment, "b", 1, listen_ports={6006: 20001})
            assert second.listen_ports == {6006: 20001}

        in_a_world(open_store, scenario)

    def test_the_port_of_an_ended_container_rests_and_the_longest_rested_goes_first(
        self, open_store: OpenStore
    ) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            rows = [
                await world.placed(deployment, name, gpu, listen_ports={6006: 20000 + 2 * gpu, 6008: 20001 + 2 * gpu})
                for gpu, name in enumerate("ab")
            ]
            for row, seconds in zip(reversed(rows), (100, 200), strict=True):
                await world.change(row, status=ContainerStatus.SHUTDOWN, stopped_at=at(seconds), updated_at=at(seconds))
            assert await free(world, 4, 100 + REST_SECONDS - 1) == []
            assert await free(world, 4, 100 + REST_SECONDS) == [20002, 20003]
            assert await free(world, 4, 200 + REST_SECONDS) == [20002, 20003, 20000, 20001]
            third = await world.placed(deployment, "c", 2, listen_ports={6006: 20002})
            assert await free(world, 4, 200 + REST_SECONDS) == [20003, 20000, 20001]
            assert third.listen_ports == {6006: 20002}

        in_a_world(open_store, scenario)

    def test_a_container_may_change_its_ports_and_an_ended_one_remembers_them(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            row = await world.placed(deployment, "a", listen_ports={6006: 20000, 6008: 20001}, ssh_port=25000)
            row = await world.change(row, listen_ports={6006: 20002, 6008: 20001}, updated_at=at(5))
            assert await free(world, 4, 5 + REST_SECONDS) == [20003, 20000]
            row = await world.change(row, status=ContainerStatus.SHUTDOWN, updated_at=at(9))
            assert row.listen_ports == {6006: 20002, 6008: 20001}
            assert row.ssh_port == 25000

        in_a_world(open_store, scenario)

    def test_what_is_known_of_addresses_and_drains_is_kept(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            fields: dict[str, Any] = {
                "host_address": "172.18.0.1",
                "password": "sealed",
                "password_hash": "sha256$salt$digest",
                "drain": DrainStep.REFUSING,
                "ssh_port": 25000,
                "listen_ports": {6006: 20000, 6008: 20001},
            }
            row = await world.placed(await world.deployment(), "a", **fields)
            found = await world.store.read(lambda tx: tx.containers.get(row.id))
            assert {name: getattr(found, name) for name in fields} == fields
            assert "sealed" not in repr(found)

        in_a_world(open_store, scenario)

    def test_those_that_ended_lately_are_found(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            await world.placed(deployment, "alive", 0)
            for gpu, (name, seconds) in enumerate((("late", 200), ("early", 100)), 1):
                row = await world.placed(deployment, name, gpu, uuid=ContainerUuid(name))
                await world.change(row, status=ContainerStatus.SHUTDOWN, stopped_at=at(seconds), updated_at=at(seconds))
            assert ids(await world.store.read(lambda tx: tx.containers.ended_since(at(99)))) == ["early", "late"]
            assert ids(await world.store.read(lambda tx: tx.containers.ended_since(at(100)))) == ["late"]

        in_a_world(open_store, scenario)

    def test_keys_are_of_one_account_and_known_by_their_fingerprint(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            told: list[Changes] = []
            world.store.on_commit(told.append)
            bob = await world.store.write(lambda tx: tx.accounts.add("bob", Role.MEMBER, at(0)))
            for account, name, mark in ((world.account, "laptop", "1"), (bob, "bob's", "1"), (world.account, "", "2")):

                def add(tx, owner=account.id, name=name, mark=mark):  # type: ignore[no-untyped-def]
                    return tx.ssh_keys.add(owner, name, f"ssh-ed25519 AAAA{mark}", f"SHA256:{mark}", at(int(mark)))

                await world.store.write(add)
            with pytest.raises(Conflict, match="SHA256:1"):
                await world.store.write(
                    lambda tx: tx.ssh_keys.add(bob.id, "again", "ssh-ed25519 AAAA1", "SHA256:1", at(3))
                )
            mine = await world.store.read(lambda tx: tx.ssh_keys.all_of(world.account.id))
            assert [(key.name, key.fingerprint, key.created_at) for key in mine] == [
                ("laptop", "SHA256:1", at(1)),
                ("", "SHA256:2", at(2)),
            ]
            assert await world.store.write(lambda tx: tx.ssh_keys.remove(world.account.id, "SHA256:1"))
            assert not await world.store.write(lambda tx: tx.ssh_keys.remove(world.account.id, "SHA256:1"))
            assert len(await world.store.read(lambda tx: tx.ssh_keys.all_of(bob.id))) == 1
            assert {account for changes in told for account in changes.accounts} == {world.account.id, bob.id}

        in_a_world(open_store, scenario)


async def free(world: World, count: int, seconds: float) -> list[int]:
    """Return the ports that may be taken then."""
    return list(await world.store.read(lambda tx: tx.listen_ports.free(RANGE, count, at(seconds))))
