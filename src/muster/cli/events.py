"""``events``: what happened to containers, and what happens next.

Following survives a restart of the server: every event has a cursor, so after a lost connection the next one is asked
for where the last one ended.
"""

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.connection import connected
from muster.cli.names import find_deployment
from muster.cli.view import Column, Format, Output, note, print_json, say, show, status_style
from muster.errors import ApiUnavailable

if TYPE_CHECKING:
    from muster.client import Client, Event

RETRY_SECONDS = 0.5
"""Between attempts to reach a server that went away: the supervisor brings it back in 0.2 to 5 s."""


def _what(event: "Event") -> str:
    return event.status if event.kind == "status" else event.kind


def _why(event: "Event") -> str:
    code = "" if event.exit_code is None else f"exit {event.exit_code}"
    return ": ".join(part for part in (event.reason, code, event.message) if part)


COLUMNS: "tuple[Column[Event], ...]" = (
    Column("ID", lambda row: row.id, is_number=True),
    Column("TIME", lambda row: row.created_at.isoformat(timespec="seconds")),
    Column("CONTAINER", lambda row: row.container_uuid),
    Column("EVENT", _what, style=status_style),
    Column("REASON", _why),
)


@connected
def events(
    client: "Client",
    deployment: Annotated[
        str | None, typer.Argument(help="Only of this deployment (name or uuid).", metavar="DEPLOYMENT")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each new event.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="How many past events to begin with.")] = 100,
    output: Output = Format.TABLE,
) -> None:
    """List events of containers, oldest first.

    With -f and -o json each line is one JSON object.
    """
    uuid = find_deployment(client, deployment).uuid if deployment else None
    past: deque[Event] = deque(maxlen=tail)
    cursor = 0
    for event in client.events(after=0, deployment_uuid=uuid, follow=False):
        past.append(event)
        cursor = event.id
    if not follow:
        show(past, COLUMNS, output, empty="no events")
        return
    for event in past:
        _print(event, output)
    for event in _following(client, cursor, uuid):
        _print(event, output)


def _following(client: "Client", cursor: int, deployment_uuid: str | None) -> "Iterator[Event]":
    """Yield each event after a cursor for ever, across restarts of the server."""
    is_lost = False
    while True:
        try:
            for event in client.events(after=cursor, deployment_uuid=deployment_uuid):
                is_lost = False
                cursor = event.id
                yield event
        except ApiUnavailable as error:
            if not is_lost:
                note(f"{error}; waiting for it")
            is_lost = True
        time.sleep(RETRY_SECONDS)


def _print(event: "Event", output: Format) -> None:
    if output is Format.JSON:
        print_json(event, is_line=True)
    else:
        moment = event.created_at.isoformat(timespec="seconds")
        say(f"{moment}  {event.container_uuid:<42}  {_what(event):<13}  {_why(event)}".rstrip())
