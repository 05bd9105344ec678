"""What every engine must do that opens the files of running containers: SFTP, spoken by a client of our own.

Subclass ``FilesConformance`` beside ``EngineConformance``, of which the fixtures are. An engine without ``has_sftp``
skips all of it.
"""
# ruff: noqa: D102, S311 - the names of the tests are sentences

import asyncio
import random
import secrets
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from muster.engine.port import ContainerRun, Engine
from muster.engine.sftp import wire
from muster.engine.sftp.wire import Attributes, Kind, Open, Status, string
from muster.testing.conformance.access import LASTING, executed, needs, told_by
from muster.testing.conformance.engine import DEADLINE_SECONDS, launch, make_run
from muster.testing.sftp_client import Refused, SftpClient


@asynccontextmanager
async def opened_files(engine: Engine, run: ContainerRun) -> AsyncIterator[SftpClient]:
    """Open the files of a container, for the block."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        client = SftpClient(await engine.sftp(run.ref))
        try:
            assert await client.begin() == 3
            yield client
        finally:
            await client.session.aclose()


class FilesConformance:
    """Inherit beside ``EngineConformance``."""

    def test_a_file_comes_and_goes_as_it_is(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_sftp, "sftp")
            run = make_run(LASTING)
            await launch(engine, run)
            chunks = [random.Random(each).randbytes(32768) for each in range(100)]
            async with opened_files(engine, run) as client:
                await client.put("data", chunks, Attributes(permissions=0o640))
                assert await client.get("data") == b"".join(chunks)
                found = await client.stat("data")
                assert (found.size, (found.permissions or 0) & 0o7777) == (3_276_800, 0o640)

        play(scenario)

    def test_commands_and_files_are_of_one_container(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_sftp and engine.capabilities.has_exec, "sftp and exec")
            run = make_run(LASTING)
            await launch(engine, run)
            name = f"muster-{secrets.token_hex(8)}"
            async with executed(engine, run, "sh", "-c", f"echo word > {name}; pwd") as session:
                folder = (await told_by(session))[0].decode().strip()
            async with opened_files(engine, run) as client:
                assert await client.name(Kind.REALPATH, ".") == folder
                assert await client.get(name) == b"word\n"
                assert await client.get(f"{folder}/{name}") == b"word\n"
                await client.do(Kind.REMOVE, name)
            async with executed(engine, run, "ls", name) as session:
                assert (await told_by(session))[2] != 0

        play(scenario)

    def test_folders_are_made_listed_renamed_and_removed(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_sftp, "sftp")
            run = make_run(LASTING)
            await launch(engine, run)
            async with opened_files(engine, run) as client:
                await client.do(Kind.MKDIR, "folder")
                for number in range(250):
                    await client.put(f"folder/{number:03}", [b"x" * number])
                entries = await client.names("folder")
                assert [name.decode() for name, _, _ in entries] == [f"{number:03}" for number in range(250)]
                assert [attributes.size for _, _, attributes in entries] == list(range(250))
                assert entries[7][1].startswith(b"-rw-r--r--   1 ")
                assert entries[7][1].endswith(b" 007")
                with pytest.raises(Refused):
                    await client.do(Kind.RMDIR, "folder")
                with pytest.raises(Refused):
                    await client.do(Kind.RENAME, "folder/001", "folder/002")
                await client.extended("posix-rename@openssh.com", "folder/001", "folder/002")
                await client.do(Kind.RENAME, "folder/003", "folder/new")
                await client.do(Kind.RENAME, "folder", "other")
                names = [name for name, _, _ in await client.names("other")]
                assert b"001" not in names
                assert b"new" in names
                assert await client.get("other/002") == b"x"

        play(scenario)

    def test_links_are_links(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_sftp, "sftp")
            run = make_run(LASTING)
            await launch(engine, run)
            async with opened_files(engine, run) as client:
                await client.put("target", [b"word"])
                await client.do(Kind.SYMLINK, "target", "link")
                assert await client.name(Kind.READLINK, "link") == "target"
                assert await client.get("link") == b"word"
                lowest, followed = await client.stat("link", Kind.LSTAT), await client.stat("link")
                assert ((lowest.permissions or 0) & 0o170000, (followed.permissions or 0) & 0o170000) == (
                    0o120000, 0o100000,
                )  # fmt: skip
                assert (await client.name(Kind.REALPATH, "link")).endswith("/target")
                await client.extended("hardlink@openssh.com", "target", "hard")
                await client.do(Kind.REMOVE, "target")
                assert await client.get("hard") == b"word"
                with pytest.raises(Refused) as refusal:
                    await client.get("link")
                assert refusal.value.code == Status.NO_SUCH_FILE

        play(scenario)

    def test_permissions_times_and_size_are_set(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_sftp, "sftp")
            run = make_run(LASTING)
            await launch(engine, run)
            async with opened_files(engine, run) as client:
                await client.put("file", [b"0123456789"])
                await client.change("file", Attributes(size=4, permissions=0o751, times=(1_000_000_000, 1_100_000_000)))
                found = await client.stat("file")
                assert (found.size, found.times) == (4, (1_000_000_000, 1_100_000_000))
                assert (found.permissions or 0) & 0o7777 == 0o751
                handle = await client.open("file", Open.READ | Open.WRITE)
                await client.call(Kind.FSETSTAT, handle, Attributes(size=2, permissions=0o600).pack())
                assert (await client.call(Kind.FSTAT, handle)).attributes().size == 2
                await client.call(Kind.EXTENDED, string(b"fsync@openssh.com"), handle)
                await client.close(handle)
                assert await client.get("file") == b"01"

        play(scenario)

    def test_what_cannot_be_done_is_told_and_the_session_goes_on(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_sftp, "sftp")
            run = make_run(LASTING)
            await launch(engine, run)
            async with opened_files(engine, run) as client:
                for call, code in (
                    (client.get("absent"), Status.NO_SUCH_FILE),
                    (client.names("absent"), Status.NO_SUCH_FILE),
                    (client.get("/dev/null"), Status.PERMISSION_DENIED),
                    (client.get("."), Status.FAILURE),
                    (client.close(string(b"none")), Status.NO_SUCH_FILE),
                    (client.extended("nothing@example.com"), Status.OP_UNSUPPORTED),
                    (client.call(Kind.DATA), Status.OP_UNSUPPORTED),
                ):
                    with pytest.raises(Refused) as refusal:
                        await call
                    assert refusal.value.code == code
                    assert refusal.value.message
                await client.put("file", [b"word"])
                assert await client.get("file") == b"word"

        play(scenario)

    def test_what_does_not_wait_for_answers_is_answered_in_order(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_sftp, "sftp")
            run = make_run(LASTING)
            await launch(engine, run)
            async with opened_files(engine, run) as client:
                await client.put("file", [bytes([each]) * 1000 for each in range(200)])
                handle = await client.open("file", Open.READ)
                asked = [
                    await client.ask(Kind.READ, handle, struct.pack(">QI", each * 1000, 1000)) for each in range(200)
                ]
                read = [(await client.take(request))[1].string() for request in asked]
                assert read == [bytes([each]) * 1000 for each in range(200)]
                disk = await client.extended("statvfs@openssh.com", "/")
                assert disk.long() > 0
                limits = await client.extended("limits@openssh.com")
                assert limits.long() == wire.MAX_PACKET_BYTES

        play(scenario)

    def test_what_is_no_sftp_ends_it(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_sftp, "sftp")
            run = make_run(LASTING)
            await launch(engine, run)
            for garbage in (b"\0\0\0\1\xff", b"\xff\xff\xff\xffGET /", b"\0\0\0\0", struct.pack(">IBI", 5, 5, 1)):
                session = await engine.sftp(run.ref)
                await session.write(garbage)
                assert (await told_by(session))[2] != 0
                await session.aclose()

        play(scenario)

    def test_the_end_of_input_ends_files_in_order(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_sftp, "sftp")
            run = make_run(LASTING)
            await launch(engine, run)
            session = await engine.sftp(run.ref)
            client = SftpClient(session)
            await client.begin()
            await session.write_eof()
            async with asyncio.timeout(DEADLINE_SECONDS):
                assert await session.exit_code() == 0
            await session.aclose()

        play(scenario)

    def test_files_end_with_the_container(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_sftp, "sftp")
            run = make_run(LASTING)
            await launch(engine, run)
            async with opened_files(engine, run) as client:
                await engine.remove(run.ref)
                async with asyncio.timeout(DEADLINE_SECONDS):
                    with pytest.raises(StopAsyncIteration):
                        await client.names(".")
                    assert await client.session.exit_code() != 0

        play(scenario)
