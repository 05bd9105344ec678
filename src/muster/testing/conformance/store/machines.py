"""Machines: put, retired, and offered."""
# ruff: noqa: D102 - the names of the tests are sentences

from muster.model.ids import MachineId
from muster.model.machine import Drain, MachineState
from muster.store.port import Transaction
from muster.testing.conformance.store.world import OpenStore, World, a_machine, at, in_a_world


class MachineConformance:
    """``Machines``."""

    def test_a_machine_is_written_new_or_changed(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            first, second = a_machine("m2"), a_machine("m1", cuda=0, address="10.0.0.7", cpu_arch="arm")

            def work(tx: Transaction) -> None:
                tx.machines.put(a_machine("m2", gpu_name="L20"))
                tx.machines.put(second)
                tx.machines.put(first)

            await world.store.write(work)
            assert await world.store.read(lambda tx: tx.machines.offered()) == [second, first]
            assert await world.store.read(lambda tx: tx.machines.get(MachineId("m2"))) == first
            assert await world.store.read(lambda tx: tx.machines.get(MachineId("m3"))) is None

        in_a_world(open_store, scenario)

    def test_a_retired_machine_is_known_but_not_offered_until_it_is_put_again(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            kept, retired = a_machine("m1"), a_machine("m2")

            def work(tx: Transaction) -> None:
                tx.machines.put(kept)
                tx.machines.put(retired)
                tx.machines.retire_all_but(frozenset({kept.id}))

            await world.store.write(work)
            assert await world.store.read(lambda tx: tx.machines.offered()) == [kept]
            assert await world.store.read(lambda tx: tx.machines.get(retired.id)) == retired
            await world.store.write(lambda tx: tx.machines.put(retired))
            assert await world.store.read(lambda tx: tx.machines.offered()) == [kept, retired]
            await world.store.write(lambda tx: tx.machines.retire_all_but(frozenset()))
            assert await world.store.read(lambda tx: tx.machines.offered()) == []

        in_a_world(open_store, scenario)

    def test_what_is_thought_of_a_machine_is_kept_apart_from_what_it_offers(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            first, second = a_machine("m1"), a_machine("m2")

            def put(tx: Transaction) -> None:
                for machine in (first, second):
                    tx.machines.put(machine)

            await world.store.write(put)

            def change(tx: Transaction) -> None:
                tx.machines.set_problem(first.id, "does not answer")
                tx.machines.set_unreachable(first.id, at(1))
                tx.machines.set_lost(first.id, at(60))
                tx.machines.set_placing(second.id, is_cordoned=True, drain=Drain.GENTLE)
                tx.machines.set_lost(MachineId("m3"), at(60))

            await world.store.write(change)
            lost = MachineState("does not answer", at(1), at(60))
            drained = MachineState(is_cordoned=True, drain=Drain.GENTLE)
            assert await world.store.read(lambda tx: tx.machines.states()) == {first.id: lost, second.id: drained}
            await world.store.write(put)
            assert await world.store.read(lambda tx: tx.machines.states()) == {first.id: lost, second.id: drained}

            def undo(tx: Transaction) -> None:
                tx.machines.set_problem(first.id, "")
                tx.machines.set_unreachable(first.id, None)
                tx.machines.set_lost(first.id, None)
                tx.machines.set_placing(second.id, is_cordoned=False, drain=Drain.NONE)

            await world.store.write(undo)
            well = MachineState()
            assert await world.store.read(lambda tx: tx.machines.states()) == {first.id: well, second.id: well}

        in_a_world(open_store, scenario)
