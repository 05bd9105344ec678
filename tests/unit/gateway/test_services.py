"""Which services there are: names that are listed, aliases that are looked up, and names that nobody has."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from muster.balancer.waiting import AsyncWaiter, Gate
from muster.errors import BalancerError, RegistryUnavailable
from muster.gateway.port import Refused, UnknownService
from muster.gateway.services import MOST_LOOKUPS, UNKNOWN_SECONDS, Services
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry.memory import MemoryRegistry
from tests.unit.gateway.ground import a_set, registry_of, run, until


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Counted:
    """A registry that counts look-ups, and holds them up while it is told to."""

    registry: MemoryRegistry
    targets: list[str] = field(default_factory=list)
    is_down: bool = False
    goes: asyncio.Event | None = None

    async def target(self, key: ServiceKey) -> ServiceKey | None:
        self.targets.append(key.service)
        if self.goes is not None:
            await self.goes.wait()
        self._check()
        return await self.registry.target(key)

    async def get(self, key: ServiceKey) -> EndpointSet | None:
        return await self.registry.get(key)

    async def keys(self) -> Sequence[ServiceKey]:
        self._check()
        return await self.registry.keys()

    def watch(self, key: ServiceKey) -> AsyncIterator[EndpointSet]:
        return self.registry.watch(key)

    async def aclose(self) -> None:
        await self.registry.aclose()

    def _check(self) -> None:
        if self.is_down:
            raise RegistryUnavailable("it is down")


def gate_of(services: Services, name: str) -> Gate:
    found = services.gate(name, 6006)
    assert isinstance(found, Gate), found
    return found


def refusal_of(services: Services, name: str) -> Refused:
    found = services.gate(name, 6006)
    assert isinstance(found, Refused), found
    return found


async def replica_of(gate: Gate, seconds: float = 5.0) -> str:
    lease = await AsyncWaiter(gate).acquire(deadline=gate.monotonic() + seconds)
    gate.release(lease)
    return lease.endpoint.id


def with_services(
    test: Callable[[Services, Counted], Awaitable[None]], *names: str, most: int = 256, **fields: object
) -> None:
    async def main() -> None:
        counted = Counted(await registry_of({"digits": "uuid"}, "uuid", *names))
        for name, value in fields.items():
            setattr(counted, name, value)
        services = Services(counted, "memory", "admin", most=most)
        async with services.running():
            await test(services, counted)

    run(main())


def test_a_listed_name_is_balanced_and_not_looked_up() -> None:
    async def test(services: Services, registry: Counted) -> None:
        await until(lambda: services.knows("uuid"))
        assert await replica_of(gate_of(services, "uuid")) == "uuid-0"
        assert registry.targets == []

    with_services(test)


def test_an_alias_is_looked_up_once_while_requests_wait() -> None:
    async def test(services: Services, registry: Counted) -> None:
        gate = gate_of(services, "digits")
        found = await asyncio.gather(*(replica_of(gate_of(services, "digits")) for _ in range(20)))
        assert found == ["uuid-0"] * 20
        assert registry.targets == ["digits"]
        assert gate_of(services, "digits") is gate
        assert services.knows("digits")

    with_services(test)


def test_a_name_that_nobody_has_fails_those_who_wait_and_then_at_once() -> None:
    async def test(services: Services, registry: Counted) -> None:
        waiting = [asyncio.ensure_future(replica_of(gate_of(services, "nobody"))) for _ in range(20)]
        for each in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(each, UnknownService)
            assert "'uuid'" in str(each)
        refused = refusal_of(services, "nobody")
        assert (refused.status, refused.reason) == (404, "unknown_service")
        assert registry.targets == ["nobody"]
        assert services.statistics() == []
        assert not services.knows("nobody")

    with_services(test)


def test_who_asks_a_gate_that_led_nowhere_meanwhile_is_told_the_same() -> None:
    async def test(services: Services, registry: Counted) -> None:
        gate = gate_of(services, "nobody")
        await until(lambda: not services.statistics())
        with pytest.raises(UnknownService):
            await replica_of(gate)

    with_services(test)


def test_an_unknown_name_is_looked_up_again_after_a_while() -> None:
    async def main() -> None:
        clock = Clock()
        counted = Counted(await registry_of())
        services = Services(counted, "memory", "admin", monotonic=clock)
        async with services.running():
            gate_of(services, "late")
            await until(lambda: not services.statistics())
            await counted.registry.publish(ServiceKey("admin", "late"), a_set("late-0"))
            assert refusal_of(services, "late").status == 404
            clock.now += UNKNOWN_SECONDS + 0.1
            gate_of(services, "late")
            await until(lambda: services.knows("late"))

    run(main())


def test_at_most_so_many_names_are_looked_up_at_a_time() -> None:
    async def test(services: Services, registry: Counted) -> None:
        registry.goes = asyncio.Event()
        for at in range(MOST_LOOKUPS):
            gate_of(services, f"x{at}")
        await until(lambda: len(registry.targets) == MOST_LOOKUPS)
        refused = refusal_of(services, "one-more")
        assert (refused.status, refused.reason, refused.retry_after_seconds) == (503, "busy_looking_up", 1.0)
        registry.goes.set()
        await until(lambda: not services.statistics())
        gate_of(services, "one-more")

    with_services(test)


def test_names_that_come_in_one_moment_are_counted_too() -> None:
    async def test(services: Services, registry: Counted) -> None:
        for at in range(MOST_LOOKUPS):
            gate_of(services, f"x{at}")
        assert refusal_of(services, "one-more").reason == "busy_looking_up"
        await until(lambda: not services.statistics())
        gate_of(services, "one-more")

    with_services(test)


def test_a_name_of_which_nothing_is_known_makes_room_before_a_service_does() -> None:
    async def test(services: Services, registry: Counted) -> None:
        await until(lambda: services.knows("a"))
        first = gate_of(services, "a")
        registry.goes = asyncio.Event()
        gate_of(services, "x")
        gate_of(services, "y")
        assert gate_of(services, "a") is first

    with_services(test, "a", most=2)


def test_what_is_meant_waits_until_it_is_published() -> None:
    async def test(services: Services, registry: Counted) -> None:
        services.mean([("later", 6006)], lambda _, __: None)
        waiting = asyncio.ensure_future(replica_of(gate_of(services, "later")))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await registry.registry.publish(ServiceKey("admin", "later"), a_set("later-0"))
        assert await waiting == "later-0"
        assert registry.targets == []

    with_services(test)


def test_what_comes_to_be_meant_while_it_is_looked_up_waits() -> None:
    async def test(services: Services, registry: Counted) -> None:
        registry.goes = asyncio.Event()
        gate = gate_of(services, "later")
        await until(lambda: registry.targets)
        services.mean([("later", 6006)], lambda _, __: None)
        registry.goes.set()
        await registry.registry.publish(ServiceKey("admin", "later"), a_set("later-0"))
        assert await replica_of(gate) == "later-0"

    with_services(test)


def test_while_the_registry_is_down_who_asks_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    async def test(services: Services, registry: Counted) -> None:
        gate = gate_of(services, "digits")
        assert await replica_of(gate) == "uuid-0"  # its sets come by the watch, which is not down here
        assert not services.knows("digits")

    with_services(test, is_down=True)
    assert "looking up admin/digits/6006 in the registry memory: it is down" in caplog.text


def test_a_name_that_may_lead_nowhere_is_not_shown_until_it_leads_somewhere() -> None:
    async def test(services: Services, registry: Counted) -> None:
        for at in range(5):
            gate_of(services, f"x{at}")
        await until(lambda: len(registry.targets) == 5)
        await replica_of(gate_of(services, "digits"))
        assert len(services.statistics()) == 6
        assert [each.service for each in services.shown()] == ["admin/digits/6006"]

    with_services(test, is_down=True)


def test_the_service_that_nobody_used_for_longest_makes_room() -> None:
    async def test(services: Services, registry: Counted) -> None:
        await until(lambda: services.knows("c"))
        first, second = gate_of(services, "a"), gate_of(services, "b")
        await replica_of(first)
        gate_of(services, "a")
        await replica_of(gate_of(services, "c"))
        assert gate_of(services, "a") is first
        with pytest.raises(BalancerError):
            await replica_of(second)

    with_services(test, "a", "b", "c", most=2)


def test_services_with_requests_make_no_room() -> None:
    async def test(services: Services, registry: Counted) -> None:
        await until(lambda: services.knows("c"))
        for name in ("a", "b"):
            gate = gate_of(services, name)
            await AsyncWaiter(gate).acquire(deadline=gate.monotonic() + 5)
        refused = refusal_of(services, "c")
        assert (refused.status, refused.reason) == (503, "too_many_services")

    with_services(test, "a", "b", "c", most=2)


def test_something_may_run_beside_each_service_for_as_long_as_it_is_open() -> None:
    async def main() -> None:
        events: list[str] = []

        async def beside(key: ServiceKey) -> None:
            events.append(f"{key} begins")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            events.append(f"{key} ends")

        services = Services(await registry_of(), "memory", "admin", on_open=lambda key, _: beside(key))
        async with services.running():
            services.mean([("a", 6006)], lambda _, __: None)
            await until(lambda: events)
        assert events == ["admin/a/6006 begins", "admin/a/6006 ends"]

    run(main())


def test_the_end_fails_those_who_wait() -> None:
    async def main() -> None:
        services = Services(await registry_of(), "memory", "admin")
        async with services.running():
            services.mean([("a", 6006)], lambda _, __: None)
            waiting = asyncio.ensure_future(replica_of(gate_of(services, "a"), 60))
            await asyncio.sleep(0)
        with pytest.raises(BalancerError):
            await waiting

    run(main())
