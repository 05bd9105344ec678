"""What the ingress is not: a TLS splice of asyncio's streams, two copying tasks for each connection.

It is measured beside the others because it is what one would write first (docs/adr/0014): no gate, no count, no limit.

    python -m benchmarks.ingress.naive PORT BACKEND_PORT CERTIFICATE KEY
"""

import asyncio
import contextlib
import ssl
import sys

from benchmarks.ingress.backend import HOST

_READ_BYTES = 64 * 1024


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


async def serve(port: int, backend_port: int, certificate: str, key: str) -> None:
    """Listen for ever."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs = await asyncio.open_connection(HOST, backend_port)
        await asyncio.gather(_copy(reader, theirs[1]), _copy(theirs[0], writer))

    server = await asyncio.start_server(carry, HOST, port, ssl=context, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:5]))
