"""A client of SFTP as small as tests need: requests as methods, over whatever session an engine opens.

Requests wait for their answers in order, unless a test sends many by ``ask`` before it takes what comes. An answer that
is an error is raised as ``Refused``, with the code and the words that came.
"""

import struct
from collections.abc import Iterable, Sequence

from muster.engine.port import ExecSession
from muster.engine.sftp import wire
from muster.engine.sftp.wire import Attributes, Fields, Kind, Status, string

CHUNK_BYTES = 32768


class Refused(Exception):
    """The server said no."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class SftpClient:
    """See the module's text; ``begin`` it before anything else."""

    def __init__(self, session: ExecSession) -> None:
        self.session = session
        self.extensions: dict[bytes, bytes] = {}
        self._output = session.output()
        self._received = bytearray()
        self._request = 0

    async def begin(self) -> int:
        """Introduce oneself; returns the version that the server speaks."""
        await self.session.write(struct.pack(">IBI", 5, Kind.INIT, wire.VERSION))
        packet = await self._packet()
        fields = Fields(packet)
        assert fields.byte() == Kind.VERSION
        version = fields.number()
        rest = len(packet) - 5
        while rest:
            name, value = fields.string(), fields.string()
            self.extensions[name] = value
            rest -= 8 + len(name) + len(value)
        return version

    async def ask(self, kind: Kind, *rest: bytes) -> int:
        """Send a request; returns its number."""
        self._request += 1
        await self.session.write(wire.packet(kind, self._request, *rest))
        return self._request

    async def take(self, request: int) -> tuple[int, Fields]:
        """Return the answer to a request, which is the next that comes. Raises ``Refused``."""
        fields = Fields(await self._packet())
        kind, answered = fields.byte(), fields.number()
        assert answered == request
        if kind == Kind.STATUS and (code := fields.number()) != Status.OK:
            raise Refused(code, fields.string().decode())
        return kind, fields

    async def call(self, kind: Kind, *rest: bytes) -> Fields:
        """Send a request and return its answer."""
        return (await self.take(await self.ask(kind, *rest)))[1]

    async def open(self, path: str, how: int, attributes: Attributes | None = None) -> bytes:
        """Open a file; returns its handle."""
        flags = struct.pack(">I", how)
        fields = await self.call(Kind.OPEN, _path(path), flags, (attributes or Attributes()).pack())
        return string(fields.string())

    async def close(self, handle: bytes) -> None:
        """Close a handle."""
        await self.call(Kind.CLOSE, handle)

    async def put(self, path: str, chunks: Iterable[bytes], attributes: Attributes | None = None) -> None:
        """Write a file, without waiting for one write before the next."""
        handle = await self.open(path, wire.Open.WRITE | wire.Open.CREAT | wire.Open.TRUNC, attributes)
        offset, asked = 0, []
        for chunk in chunks:
            asked.append(await self.ask(Kind.WRITE, handle, struct.pack(">Q", offset), string(chunk)))
            offset += len(chunk)
        for request in asked:
            await self.take(request)
        await self.close(handle)

    async def get(self, path: str) -> bytes:
        """Read a file."""
        handle = await self.open(path, wire.Open.READ)
        content = bytearray()
        try:
            while True:
                where = struct.pack(">QI", len(content), CHUNK_BYTES)
                content += (await self.call(Kind.READ, handle, where)).string()
        except Refused as refusal:
            if refusal.code != Status.EOF:
                raise
        await self.close(handle)
        return bytes(content)

    async def names(self, path: str) -> Sequence[tuple[bytes, bytes, Attributes]]:
        """Return what a folder holds, sorted by name."""
        handle = string((await self.call(Kind.OPENDIR, _path(path))).string())
        found: list[tuple[bytes, bytes, Attributes]] = []
        try:
            while True:
                fields = await self.call(Kind.READDIR, handle)
                found += [_entry(fields) for _ in range(fields.number())]
        except Refused as refusal:
            if refusal.code != Status.EOF:
                raise
        await self.close(handle)
        return sorted(found, key=lambda entry: entry[0])

    async def stat(self, path: str, kind: Kind = Kind.STAT) -> Attributes:
        """Return a file's attributes."""
        return (await self.call(kind, _path(path))).attributes()

    async def change(self, path: str, attributes: Attributes) -> None:
        """Set a file's attributes."""
        await self.call(Kind.SETSTAT, _path(path), attributes.pack())

    async def name(self, kind: Kind, path: str) -> str:
        """Return the one name that ``REALPATH`` or ``READLINK`` answers."""
        fields = await self.call(kind, _path(path))
        assert fields.number() == 1
        return _entry(fields)[0].decode()

    async def do(self, kind: Kind, *paths: str) -> None:
        """Send a request of paths alone."""
        attributes = [Attributes().pack()] if kind is Kind.MKDIR else []
        await self.call(kind, *map(_path, paths), *attributes)

    async def extended(self, name: str, *paths: str) -> Fields:
        """Send a request that OpenSSH has added."""
        return await self.call(Kind.EXTENDED, _path(name), *map(_path, paths))

    async def _packet(self) -> bytes:
        while (packet := wire.split(self._received)) is None:
            _, chunk = await anext(self._output)
            self._received += chunk
        return packet


def _path(path: str) -> bytes:
    return string(path.encode())


def _entry(fields: Fields) -> tuple[bytes, bytes, Attributes]:
    return fields.string(), fields.string(), fields.attributes()
