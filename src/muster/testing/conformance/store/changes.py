"""What the listeners of a store hear of each commit, when, and on which thread."""
# ruff: noqa: D102 - the names of the tests are sentences

import asyncio
import threading

from muster.model.container import ContainerStatus
from muster.model.deployment import Deployment
from muster.model.event import EventKind, NewEvent
from muster.model.ids import ContainerUuid, ImageUuid
from muster.store.port import Changes, Transaction
from muster.testing.conformance.store.world import START, OpenStore, World, a_machine, at, in_a_world


class ChangesConformance:
    """``on_commit``."""

    def test_listeners_hear_of_each_commit_once_and_in_order(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            heard: list[Changes] = []
            threads: set[int] = set()
            world.store.on_commit(heard.append)
            world.store.on_commit(lambda _: threads.add(threading.get_ident()))
            deployments = await asyncio.gather(*(world.deployment(f"d{number}") for number in range(10)))
            assert sorted(change.deployments for change in heard) == sorted(
                frozenset({deployment.id}) for deployment in deployments
            )
            in_order = sorted(deployments, key=lambda deployment: deployment.number)
            assert [change.deployments for change in heard] == [frozenset({each.id}) for each in in_order]
            assert threads == {threading.get_ident()}

        in_a_world(open_store, scenario)

    def test_a_listener_finds_what_it_hears_of_already_committed(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            found: list[asyncio.Task[Deployment | None]] = []

            def look(changes: Changes) -> None:
                (key,) = changes.deployments
                found.append(asyncio.create_task(world.store.read(lambda tx: tx.deployments.get(key))))

            world.store.on_commit(look)
            deployment = await world.deployment()
            assert await asyncio.gather(*found) == [deployment]

        in_a_world(open_store, scenario)

    def test_the_changes_of_one_function_are_told_together(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            first, second = await world.deployment("d1"), await world.deployment("d2")
            container = await world.placed(second, "c1", 0)
            heard: list[Changes] = []
            world.store.on_commit(heard.append)

            def work(tx: Transaction) -> None:
                tx.deployments.update(first)
                tx.containers.update(container)
                tx.events.append(
                    NewEvent(
                        account_id=container.account_id,
                        deployment_id=container.deployment_id,
                        container_id=container.id,
                        container_uuid=ContainerUuid("uuid-c1"),
                        kind=EventKind.STATUS,
                        status=ContainerStatus.CREATING,
                        created_at=START,
                    )
                )

            await world.store.write(work)
            assert heard == [Changes(frozenset({first.id, second.id}), frozenset({container.id}), has_events=True)]

        in_a_world(open_store, scenario)

    def test_a_write_that_changes_nothing_calls_nobody(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            machine = a_machine("m1")
            await world.store.write(lambda tx: tx.machines.put(machine))
            await world.store.write(lambda tx: tx.accounts.add_token(world.account.id, "hash", "pre", START))
            await world.store.write(lambda tx: tx.images.put_base(ImageUuid("base-image-1"), "local", "local", START))
            heard: list[Changes] = []
            world.store.on_commit(heard.append)
            await world.store.write(lambda tx: tx.deployments.unsettled())
            await world.store.write(lambda tx: tx.machines.put(machine))
            await world.store.write(lambda tx: tx.accounts.add_token(world.account.id, "hash", "pre", START))
            await world.store.write(lambda tx: tx.images.put_base(ImageUuid("base-image-1"), "local", "local", at(1)))
            await world.store.read(lambda tx: tx.deployments.unsettled())
            assert heard == []

        in_a_world(open_store, scenario)
