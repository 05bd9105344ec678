"""Long answers about services: which of the account's deployments changed, and a service's sets as they are published.

One JSON value a line; an empty line when nothing happened for a while, as in the stream of events. What ends a stream
before its reader does is told by a last line that holds ``error``. Changes carry no data on purpose: the reader asks
for the service, and so never holds anything older than what it was told of.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from muster.api.context import Context
from muster.api.envelope import error_body, refusal_of
from muster.api.stream import QUIET_SECONDS
from muster.errors import MusterError
from muster.feed import owned
from muster.model.account import Account
from muster.model.endpoint import ServiceKey
from muster.model.event import Cursor
from muster.model.ids import random_hex


async def change_lines(context: Context, account: Account, cursor: Cursor, *, follow: bool) -> AsyncIterator[bytes]:
    """Yield the account's deployments that changed after ``cursor``, and with ``follow`` every later one, for ever."""
    if not follow:
        events = await context.store.read(lambda tx: tx.events.after(cursor, account_id=account.id))
        if events:
            yield _changes({each.deployment_id for each in events}, events[-1].id)
        return
    async with aclosing(_with_signs_of_life(_changes_of(context, account, cursor))) as lines:
        async for line in lines:
            yield line


async def set_lines(context: Context, key: ServiceKey, *, follow: bool) -> AsyncIterator[bytes]:
    """Yield the present set of a key, if there is one, and with ``follow`` each newer one, for ever."""
    if not follow:
        found = await context.registry.get(key)
        if found is not None:
            yield found.to_json().encode() + b"\n"
        return
    async with aclosing(_with_signs_of_life(_sets_of(context, key))) as lines:
        async for line in lines:
            yield line


async def _changes_of(context: Context, account: Account, cursor: Cursor) -> AsyncGenerator[bytes, None]:
    async for batch in context.feed.changes(cursor):
        found = await context.store.read(lambda tx, ids=batch.deployments: owned(tx, account.id, ids))  # type: ignore[misc]
        if found:
            yield _changes(set(found), batch.cursor)


async def _sets_of(context: Context, key: ServiceKey) -> AsyncGenerator[bytes, None]:
    async for endpoints in context.registry.watch(key):
        yield endpoints.to_json().encode() + b"\n"


def _changes(deployments: set[str], cursor: int) -> bytes:
    return json.dumps({"deployments": sorted(deployments), "cursor": cursor}).encode() + b"\n"


async def _with_signs_of_life(lines: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield the lines, an empty one whenever none came for a while, and what ended them, if something did."""
    coming = asyncio.ensure_future(anext(lines, None))
    try:
        while True:
            await asyncio.wait({coming}, timeout=QUIET_SECONDS)
            if not coming.done():
                yield b"\n"
                continue
            try:
                line = coming.result()
            except MusterError as error:
                yield json.dumps(error_body(refusal_of(error), random_hex(32))).encode() + b"\n"
                return
            if line is None:
                return
            yield line
            coming = asyncio.ensure_future(anext(lines, None))
    finally:
        coming.cancel()
        await asyncio.wait({coming})
        await lines.aclose()
