"""HTTPS endpoints with the certificates that the ingress shows: the set says whom to trust, and names are checked."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from muster.balancer.balancer import Balancer
from muster.balancer.faults import ServiceUnreachable
from muster.balancer.transport import AsyncMusterTransport, MusterTransport
from muster.balancer.waiting import Gate
from muster.model.endpoint import EndpointSet
from muster.tls.authority import ca_pem
from muster.tls.certificate import Certificates
from tests.unit.balancer.servers import endpoint_set, ok, serving
from tests.unit.tls.material import Operator, ec_key, pem

Ask = Callable[[], Awaitable[str]]


async def by_task(gate: Gate, use: Callable[[Ask], Awaitable[None]]) -> None:
    async with httpx.AsyncClient(transport=AsyncMusterTransport(gate), base_url="http://digits") as client:

        async def ask() -> str:
            return (await client.post("/", content=b"x")).text

        await use(ask)


async def by_thread(gate: Gate, use: Callable[[Ask], Awaitable[None]]) -> None:
    with httpx.Client(transport=MusterTransport(gate), base_url="http://digits") as client:

        async def ask() -> str:
            return await asyncio.to_thread(lambda: client.post("/", content=b"x").text)

        await use(ask)


Way = Callable[[Gate, Callable[[Ask], Awaitable[None]]], Awaitable[None]]
both = pytest.mark.parametrize("way", [by_task, by_thread], ids=["async", "sync"])


def gated(endpoints: EndpointSet, *, wait: float = 5.0) -> Gate:
    gate = Gate(Balancer("digits", random.Random(1)), wait_seconds=wait)
    gate.update(endpoints)
    return gate


def own(home: Path) -> Certificates:
    return Certificates.open(home, names=(), certificate=None, key=None)


@both
def test_the_authority_of_the_set_is_trusted(way: Way, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(own(tmp_path).context, a=ok) as servers:

            async def use(ask: Ask) -> None:
                assert [await ask() for _ in range(3)] == ["a", "a", "a"]

            await way(gated(endpoint_set(servers["a"], ca_pem=ca_pem(tmp_path))), use)
            assert servers["a"].connections == 1

    asyncio.run(scenario())


@both
@pytest.mark.parametrize("authority", [None, "another"])
def test_no_other_authority_is(way: Way, tmp_path: Path, authority: str | None) -> None:
    told = None if authority is None else ca_pem(tmp_path / authority)

    async def scenario() -> None:
        async with serving(own(tmp_path).context, a=ok) as servers:

            async def use(ask: Ask) -> None:
                with pytest.raises(ServiceUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
                    await ask()

            await way(gated(endpoint_set(servers["a"], ca_pem=told), wait=0.2), use)
            assert servers["a"].seen == []

    asyncio.run(scenario())


@both
def test_the_authority_of_one_set_is_not_trusted_for_another(way: Way, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            serving(own(tmp_path / "one").context, a=ok) as first,
            serving(own(tmp_path / "two").context, b=ok) as second,
        ):

            async def works(ask: Ask) -> None:
                assert await ask() == "a"

            async def fails(ask: Ask) -> None:
                with pytest.raises(ServiceUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
                    await ask()

            await way(gated(endpoint_set(first["a"], ca_pem=ca_pem(tmp_path / "one"))), works)
            await way(gated(endpoint_set(second["b"], ca_pem=ca_pem(tmp_path / "one")), wait=0.2), fails)

    asyncio.run(scenario())


@both
def test_the_name_in_the_address_must_be_in_the_certificate(way: Way, tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    key = ec_key()
    operator.install(operator.signed(key, "other.lab"), key=key)
    shown = Certificates.open(tmp_path, names=(), certificate=operator.certificate, key=operator.key)

    async def scenario() -> None:
        async with serving(shown.context, a=ok) as servers:

            async def use(ask: Ask) -> None:
                with pytest.raises(ServiceUnreachable, match="IP address mismatch"):
                    await ask()

            await way(gated(endpoint_set(servers["a"], ca_pem=pem(operator.own).decode()), wait=0.2), use)
            assert servers["a"].seen == []

    asyncio.run(scenario())


@both
def test_another_authority_in_a_newer_set_is_for_new_connections_and_the_old_ones_are_closed(
    way: Way, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with serving(own(tmp_path).context, a=ok) as servers:
            gate = gated(endpoint_set(servers["a"], ca_pem=ca_pem(tmp_path)), wait=0.3)

            async def use(ask: Ask) -> None:
                assert await ask() == "a"
                gate.update(endpoint_set(servers["a"], revision=2, ca_pem=ca_pem(tmp_path / "another")))
                with pytest.raises(ServiceUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
                    await ask()
                gate.update(endpoint_set(servers["a"], revision=3, ca_pem=ca_pem(tmp_path)))
                assert await ask() == "a"

            await way(gate, use)
            assert len(servers["a"].seen) == 2

    asyncio.run(scenario())
