"""Files of the account's storage: list, read, write, remove.

Contents stream both ways, a chunk at a time and never held whole. Every look at a disk happens in a worker thread: the
storage may be a network mount that takes its time.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from muster.api import convert, schemas
from muster.api.audit import note
from muster.api.auth import Caller
from muster.api.context import Context, Ctx
from muster.errors import Conflict, InvalidSpec
from muster.files import FileTree, OpenFile
from muster.model.account import Caller as CallerAccount

extension = APIRouter(prefix="/api/v1/muster/files", tags=["Muster"])

BINARY = "application/octet-stream"
_BATCH_BYTES = 1 << 20
"""What is written at once: a hop to a thread costs about as much as writing a tenth of it."""
_UPLOAD: dict[str, Any] = {
    "requestBody": {"required": True, "content": {BINARY: {"schema": {"type": "string", "format": "binary"}}}}
}


async def _tree(caller: Caller, context: Ctx, data_center: Annotated[str, Query(max_length=255)] = "") -> FileTree:
    """Return the caller's files in the data center that is meant; with only one, nobody has to name it."""
    if context.files is None:
        raise Conflict("this server has no file storage (the local engine shares the host's files)")
    known = await context.store.read(lambda tx: sorted({each.data_center for each in tx.machines.offered()}))
    return context.files.tree(caller.id, _chosen(data_center, known))


Tree = Annotated[FileTree, Depends(_tree)]
Path = Annotated[str, Query(min_length=1)]


@extension.get("")
async def list_files(
    tree: Tree, context: Ctx, *, path: str = "/", after: str = "", limit: int = Query(1000, ge=1, le=10_000)
) -> schemas.FileListing:
    """Return what is at a path, and of a folder the entries by name; go on with the last name as ``after``."""
    listing = await run_in_threadpool(tree.list, path, after=after, limit=limit)
    return convert.file_listing(listing, context.zone)


@extension.put("", status_code=201)
async def make_folder(tree: Tree, caller: Caller, context: Ctx, path: Path) -> schemas.FileRow:
    """Make a folder and those above it; one that is there stays as it is."""
    await _note(context, caller, "file.folder", path)
    return convert.file_row(await run_in_threadpool(tree.make_folder, path), context.zone)


@extension.delete("")
async def remove_file(
    tree: Tree, caller: Caller, context: Ctx, *, path: Path, recursive: bool = False
) -> schemas.FileRow:
    """Remove a file or a link, or with ``recursive`` a folder with everything in it; returns what it was."""
    await _note(context, caller, "file.remove", path, "with everything in it" if recursive else "")
    return convert.file_row(await run_in_threadpool(tree.remove, path, is_recursive=recursive), context.zone)


@extension.get("/content", response_class=StreamingResponse, responses={200: {"content": {BINARY: {}}}})
async def read_file(tree: Tree, path: Path) -> StreamingResponse:
    """Stream a file's content."""
    return _Content(await run_in_threadpool(tree.read, path))


@extension.put("/content", status_code=201, openapi_extra=_UPLOAD)
async def write_file(
    request: Request,
    tree: Tree,
    caller: Caller,
    context: Ctx,
    *,
    path: Path,
    mode: Annotated[str, Query(pattern="^[0-7]{3}$")] = "644",
) -> schemas.FileRow:
    """Write the body as a file, with the folders above it; the file is there when it is complete, and not before."""
    upload = await run_in_threadpool(tree.write, path, mode=int(mode, 8))
    try:
        async for batch in _batches(request):
            await run_in_threadpool(upload.write, batch)
        await _note(context, caller, "file.write", path)
        written = await run_in_threadpool(upload.commit)
    except ClientDisconnect as error:
        raise InvalidSpec("body", "ended before it was complete") from error
    finally:
        await run_in_threadpool(upload.close)
    return convert.file_row(written, context.zone)


async def _note(context: Context, caller: CallerAccount, action: str, path: str, detail: str = "") -> None:
    """Write down what is about to be done: a disk and the store have no transaction in common."""
    now = context.clock.now()
    await context.store.write(lambda tx: note(tx, caller, action, path, detail, now))


class _Content(StreamingResponse):
    """Sends a file and closes it, however sending ends."""

    def __init__(self, file: OpenFile) -> None:
        super().__init__(file.chunks(), media_type=BINARY, headers={"content-length": str(file.size_bytes)})
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()


async def _batches(request: Request) -> AsyncIterator[bytes]:
    held = bytearray()
    async for chunk in request.stream():
        held += chunk
        if len(held) >= _BATCH_BYTES:
            yield bytes(held)
            held.clear()
    yield bytes(held)


def _chosen(told: str, known: Sequence[str]) -> str:
    if told in known:
        return told
    if not known:
        raise Conflict("no machine is offered, so there is no data center whose files could be meant")
    names = ", ".join(known)
    if told:
        raise InvalidSpec("data_center", f"{told!r} is none of: {names}")
    if len(known) > 1:
        raise InvalidSpec("data_center", f"is required, one of: {names}")
    return known[0]
