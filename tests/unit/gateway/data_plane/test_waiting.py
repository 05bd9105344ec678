"""Requests that wait for a replica, and clients that do not wait for them."""

import asyncio

import pytest

from muster.balancer.ask import Ask
from muster.balancer.options import Options
from muster.gateway.port import Limits
from tests.unit.gateway.data_plane.ground import a_set, client_of, gateway_to, run, world
from tests.unit.gateway.data_plane.test_requests import reason_of
from tests.unit.ingress.http.ground import GET, OK, Backend, answers_ok, until, value


async def answers_when_released(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await backend.head(reader)
        await reader.readexactly(int(value(head, b"content-length") or 0))
        await backend.release.wait()
        writer.write(OK)


def test_a_request_waits_for_a_free_slot() -> None:
    async def main() -> None:
        async with world(answers_when_released, concurrency=1) as ((backend,), gateway):
            async with client_of(gateway) as first, client_of(gateway) as second:
                await first.say(GET)
                await until(lambda: backend.heads)
                await second.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
                await until(lambda: gateway.waiting)
                await asyncio.sleep(0.05)
                backend.release.set()
                assert (await first.answer())[1] == b"ok"
                assert (await second.answer())[1] == b"ok"
            assert [each.queue_seconds > 0.04 for each in gateway.records] == [False, True]

    run(main())


def test_an_upload_that_drips_does_not_hold_a_slot_for_ever() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await backend.head(reader)
            await reader.readexactly(int(value(head, b"content-length") or 0))
            writer.write(OK)

        async with (
            world(handle, concurrency=1, limits=Limits(body_seconds=0.3)) as (_, gateway),
            client_of(gateway) as slow,
            client_of(gateway) as other,
        ):
            await slow.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
            await until(lambda: gateway.in_flight)
            await other.say(GET)

            async def drip() -> None:
                while True:
                    await slow.say(b"x")
                    await asyncio.sleep(0.02)

            dripping = asyncio.ensure_future(drip())
            assert await reason_of(slow) == (408, "body_timeout")
            assert (await other.answer())[1] == b"ok"
            dripping.cancel()
            assert gateway.records[0].bytes_in < 1024

    run(main())


def test_an_upload_of_some_pace_may_take_its_time() -> None:
    async def main() -> None:
        async with world(answers_when_released, limits=Limits(body_seconds=0.2)) as ((backend,), gateway):
            backend.release.set()
            async with client_of(gateway) as client:
                await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10240\r\n\r\n")
                for _ in range(10):
                    await client.say(bytes(1024))
                    await asyncio.sleep(0.05)
                assert (await client.answer())[1] == b"ok"

    run(main())


def test_a_request_that_waits_too_long_is_a_503() -> None:
    async def main() -> None:
        async with (
            world(answers_when_released, concurrency=1, wait_seconds=0.1) as ((backend,), gateway),
            client_of(gateway) as first,
            client_of(gateway) as second,
        ):
            await first.say(GET)
            await until(lambda: backend.heads)
            await second.say(GET)
            head, _ = await second.answer()
            assert head.startswith(b"HTTP/1.1 503 ")
            assert value(head, b"retry-after") == b"1"
            assert gateway.records[0].reason == "queue_timeout"
            assert len(backend.heads) == 1

    run(main())


def test_a_full_queue_is_a_503_at_once() -> None:
    async def main() -> None:
        async with (
            world(answers_when_released, concurrency=1, queue_capacity=1) as ((backend,), gateway),
            client_of(gateway) as first,
            client_of(gateway) as second,
            client_of(gateway) as third,
        ):
            await first.say(GET)
            await until(lambda: backend.heads)
            await second.say(GET)
            await until(lambda: gateway.waiting)
            await third.say(GET)
            assert await reason_of(third) == (503, "queue_full")

    run(main())


def test_a_service_without_replicas_is_a_503() -> None:
    async def main() -> None:
        async with gateway_to(wait_seconds=0.05) as gateway, client_of(gateway) as client:
            await client.say(GET)
            assert await reason_of(client) == (503, "no_replica")

    run(main())


def test_a_request_that_fits_no_replica_is_a_422() -> None:
    async def main() -> None:
        options = Options(ask=Ask(demands={"vram_mb": 1000}))
        async with world(answers_ok, options=options) as ((backend,), gateway), client_of(gateway) as client:
            endpoint = a_set("http://127.0.0.1:1", revision=2).endpoints[0]
            budgeted = type(endpoint)(endpoint.id, endpoint.url, budgets={"vram_mb": 10})
            known = a_set(revision=2)
            gateway.gate.update(type(known)(1, 2, (budgeted,), known.published_at))
            await client.say(GET)
            assert await reason_of(client) == (422, "never_fits")
            assert not backend.heads

    run(main())


def test_a_closed_service_is_a_503() -> None:
    async def main() -> None:
        async with world(answers_ok) as (_, gateway), client_of(gateway) as client:
            gateway.gate.close()
            await client.say(GET)
            assert await reason_of(client) == (503, "closing")

    run(main())


@pytest.mark.parametrize("is_half", [False, True])
def test_a_client_that_goes_while_it_waits_leaves_the_queue_at_once(is_half: bool) -> None:
    async def main() -> None:
        async with world(answers_when_released, concurrency=1) as ((backend,), gateway):
            async with client_of(gateway) as first:
                await first.say(GET)
                await until(lambda: backend.heads)
                async with client_of(gateway) as second:
                    await second.say(GET)
                    await until(lambda: gateway.waiting)
                    if is_half:
                        second.writer.write_eof()
                        await until(lambda: not gateway.waiting)
                await until(lambda: not gateway.waiting)
                await until(lambda: gateway.records)
                assert [(each.status, each.reason) for each in gateway.records] == [(0, "client_gone")]
                backend.release.set()
                assert (await first.answer())[1] == b"ok"
            assert len(backend.heads) == 1

    run(main())


def test_a_client_that_goes_with_its_request_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with world(answers_ok) as (_, gateway):
            for _ in range(50):
                async with client_of(gateway) as client:
                    client.writer.write(GET)
                    await until(lambda: gateway.protocols.guests.open_connections)
                await until(lambda: not gateway.protocols.guests.open_connections)
            await until(lambda: not gateway.in_flight)

    run(main())


def test_a_client_that_goes_with_a_body_that_nobody_reads_yet_leaves_the_queue_too() -> None:
    async def main() -> None:
        async with world(answers_when_released, concurrency=1) as ((backend,), gateway), client_of(gateway) as first:
            await first.say(GET)
            await until(lambda: backend.heads)
            async with client_of(gateway) as second:
                await second.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n" + b"x" * 200_000)
                await until(lambda: gateway.waiting)
            await until(lambda: not gateway.waiting)
            assert [each.reason for each in gateway.records] == ["client_gone"]

    run(main())
