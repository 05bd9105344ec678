"""What an idle stream costs: a thousand of them through a gateway in a process of its own."""

import asyncio
import contextlib
import sys

import psutil
import pytest

from tests.unit.gateway.data_plane.ground import run, url_of
from tests.unit.ingress.http.ground import GET, Backend, backend_of

STREAMS = 1_000
MOST_KIB = 16
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"

SCRIPT = """
import asyncio, datetime, random, sys
import uvloop
from muster.balancer.balancer import Balancer
from muster.balancer.options import NO_OPTIONS
from muster.balancer.waiting import Gate
from muster.gateway.port import Hall, Passage
from muster.gateway.protocol import gateway_protocol
from muster.model.endpoint import Endpoint, EndpointSet

gate = Gate(Balancer("digits", random.Random(1)))
known = (Endpoint("r0", sys.argv[1], concurrency=5000),)
gate.update(EndpointSet(1, 1, known, datetime.datetime.now(datetime.UTC)))

class Reception:
    def admit(self, head, peer, body, now):
        return Passage("digits", gate, head.target, NO_OPTIONS, lambda: None)

async def main():
    protocols = gateway_protocol(Hall(Reception(), lambda record: None))
    server = await asyncio.get_running_loop().create_server(protocols, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


@pytest.mark.slow
def test_a_thousand_idle_streams_cost_little_memory() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(STREAM)
            await reader.read()

        async with backend_of(handle) as backend, contextlib.AsyncExitStack() as stack:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", SCRIPT, url_of(backend), stdout=asyncio.subprocess.PIPE
            )
            stack.push_async_callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            port = int(await process.stdout.readline())

            kept: list[asyncio.StreamWriter] = []
            stack.callback(_abort, kept)

            async def open_some(count: int) -> None:
                for _ in range(count):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    kept.append(writer)
                    writer.write(GET)
                    while b"data: 1" not in await reader.readline():
                        pass

            await open_some(50)
            before = psutil.Process(process.pid).memory_info().rss
            await open_some(STREAMS)
            assert psutil.Process(process.pid).num_fds() > 2 * STREAMS
            each = (psutil.Process(process.pid).memory_info().rss - before) / STREAMS / 1024
            assert 1 < each < MOST_KIB, f"{each:.1f} KiB a stream"

    run(main(), seconds=40)


def _abort(kept: list[asyncio.StreamWriter]) -> None:
    for each in kept:
        each.transport.abort()
