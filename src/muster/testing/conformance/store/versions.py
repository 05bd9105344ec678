"""Versions of deployments: what was wanted under each name stays known."""
# ruff: noqa: D102 - the names of the tests are sentences

import dataclasses

from muster.model.deployment import Version
from muster.model.ids import ContainerId, DeploymentId
from muster.testing.conformance.store.world import START, OpenStore, World, a_spec, at, in_a_world


class VersionConformance:
    """``Deployments.version``, ``versions``, and what ``update`` writes under a name."""

    def test_a_new_deployment_is_its_first_version(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            first = Version(deployment.id, "v1", 1, deployment.spec, START)
            assert await world.store.read(lambda tx: tx.deployments.version(deployment.id, "v1")) == first
            assert await world.store.read(lambda tx: tx.deployments.versions(deployment.id)) == [first]
            assert await world.store.read(lambda tx: tx.deployments.version(deployment.id, "v2")) is None
            assert await world.store.read(lambda tx: tx.deployments.versions(DeploymentId("other"))) == []

        in_a_world(open_store, scenario)

    def test_a_name_that_is_new_becomes_the_next_version_and_one_that_is_known_is_changed(
        self, open_store: OpenStore
    ) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            edited = dataclasses.replace(deployment, version="blue", spec=a_spec(cmd="serve --fast"), edited_at=at(5))
            edited = await world.store.write(lambda tx: tx.deployments.update(edited, replaces_all=True))
            newest, first = await world.store.read(lambda tx: tx.deployments.versions(deployment.id))
            assert newest == Version(deployment.id, "blue", 2, edited.spec, at(5), replaces_all=True)
            assert (first.name, first.spec) == ("v1", deployment.spec)
            scaled = dataclasses.replace(edited, spec=dataclasses.replace(edited.spec, replica_num=7))
            scaled = await world.store.write(lambda tx: tx.deployments.update(scaled))
            found = await world.store.read(lambda tx: tx.deployments.version(deployment.id, "blue"))
            assert found == dataclasses.replace(newest, spec=scaled.spec)
            back = dataclasses.replace(scaled, version="v1", spec=deployment.spec, edited_at=at(9))
            await world.store.write(lambda tx: tx.deployments.update(back))
            found = await world.store.read(lambda tx: tx.deployments.version(deployment.id, "v1"))
            assert found == first

        in_a_world(open_store, scenario)

    def test_a_rollout_is_kept_and_a_new_container_is_of_the_target_version(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            failed = dataclasses.replace(
                deployment, version="v2", stable_version="v1", is_paused=True, failure="镜像不存在", edited_at=at(1)
            )
            failed = await world.store.write(lambda tx: tx.deployments.update(failed))
            assert await world.store.read(lambda tx: tx.deployments.get(deployment.id)) == failed
            container = await world.store.write(lambda tx: tx.containers.add(failed, ContainerId("c1"), at(2)))
            assert container.version == failed.target_version == "v1"

        in_a_world(open_store, scenario)
