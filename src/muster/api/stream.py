"""Long answers: the account's events as they are committed, one JSON object a line.

An empty line is sent when nothing happened for a while: it keeps proxies from closing the connection and finds out
that the reader is gone. The reader resumes with the ``id`` of the last line it saw. When it reads so slowly that the
events it needs are pruned, the stream ends with a line that holds ``error``.
"""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial

from muster.api import convert
from muster.api.context import Context
from muster.api.envelope import error_body, refusal_of
from muster.clock import wait_for_event
from muster.errors import CursorExpired
from muster.model.account import Account
from muster.model.event import Cursor, Event
from muster.model.ids import DeploymentId, random_hex
from muster.store.port import Transaction

NDJSON = "application/x-ndjson"
QUIET_SECONDS = 10.0
"""Shorter than the idle time-outs of common proxies (nginx: 60 s)."""
_BATCH = 500


def check_cursor(tx: Transaction, cursor: Cursor) -> None:
    """Raise ``CursorExpired`` when events after the cursor are gone, or when this log never gave it out."""
    if cursor > tx.events.last():
        raise CursorExpired(f"cursor {cursor} is not of this event log: list again")
    tx.events.after(cursor, limit=1)


async def event_lines(
    context: Context,
    account: Account,
    cursor: Cursor,
    *,
    deployment_id: DeploymentId | None,
    follow: bool,
) -> AsyncIterator[bytes]:
    """Yield the events after ``cursor``, and with ``follow`` every later one, for ever."""
    while True:
        ticket = context.commits.ticket()
        try:
            events = await context.store.read(partial(_batch, account=account, cursor=cursor))
        except CursorExpired as error:
            yield json.dumps(error_body(refusal_of(error), random_hex(32))).encode() + b"\n"
            return
        if events:
            cursor = Cursor(events[-1].id)
            yield b"".join(_lines(context, events, deployment_id))
        elif not follow:
            return
        else:
            await wait_for_event(ticket, context.clock, QUIET_SECONDS)
            if not ticket.is_set():
                yield b"\n"


def _batch(tx: Transaction, *, account: Account, cursor: Cursor) -> Sequence[Event]:
    return tx.events.after(cursor, account_id=account.id, limit=_BATCH)


def _lines(context: Context, events: Iterable[Event], deployment_id: DeploymentId | None) -> Iterable[bytes]:
    return (
        convert.event_row(event, context.zone).model_dump_json().encode() + b"\n"
        for event in events
        if deployment_id is None or event.deployment_id == deployment_id
    )
