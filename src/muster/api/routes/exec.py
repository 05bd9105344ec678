"""Exec: run a command in a container, as one WebSocket.

::

    GET /api/v1/muster/containers/{uuid}/exec?command=sh&command=-c&command=ls&tty=true&columns=80&rows=24
    Sec-WebSocket-Protocol: v1.exec.muster
    Authorization: <token>

What is said once it is open is in ``muster.model.exec_wire`` and, for people, in ``docs/exec.md``. Whatever speaks
against it is told before that, as on every other path: a status code and ``{"error": …}``. A client that goes away
hangs up on its command.

The token comes in the header as everywhere, never in the URL, which proxies and servers write to their logs.
"""

from typing import Annotated

from fastapi import APIRouter, Query, WebSocket

from muster.api import wanted
from muster.api.audit import note
from muster.api.auth import Caller
from muster.api.context import Context, Ctx
from muster.api.exec_relay import relay
from muster.engine.port import ExecSession
from muster.errors import Conflict, EngineRejected, InvalidSpec
from muster.model.account import Caller as CallerAccount
from muster.model.container import Container, ContainerStatus
from muster.model.exec_wire import LARGEST_SIZE, SUBPROTOCOL
from muster.model.run import ExecOrder, Ref

extension = APIRouter(prefix="/api/v1/muster/containers")

_RUNS = frozenset({ContainerStatus.RUNNING, ContainerStatus.SHUTTING_DOWN})
"""While it is being stopped the command lives on for a while, and somebody may want to see why it takes so long."""


@extension.websocket("/{uuid}/exec")
async def execute(
    socket: WebSocket,
    uuid: str,
    caller: Caller,
    context: Ctx,
    *,
    command: Annotated[list[str], Query(min_length=1)],
    tty: bool = False,
    columns: int | None = Query(None, ge=1, le=LARGEST_SIZE),
    rows: int | None = Query(None, ge=1, le=LARGEST_SIZE),
) -> None:
    """Run a command in a running container."""
    if SUBPROTOCOL not in socket.scope["subprotocols"]:
        raise InvalidSpec("Sec-WebSocket-Protocol", f"must offer {SUBPROTOCOL}")
    if any("\0" in word for word in command):
        raise InvalidSpec("command", "holds a NUL character")
    size = (columns, rows) if tty and columns and rows else None
    session = await _begin(context, caller, uuid, ExecOrder(tuple(command), has_tty=tty, size=size))
    try:
        await socket.accept(SUBPROTOCOL)
        await relay(socket, session)
    finally:
        await session.aclose()


async def _begin(context: Context, caller: CallerAccount, uuid: str, order: ExecOrder) -> ExecSession:
    """Start the command. Raises what speaks against it."""
    container = await context.store.read(lambda tx: wanted.own_container(tx, caller, uuid))
    if not context.access.capabilities.has_exec:
        raise Conflict("this engine cannot run commands beside a container's own; with Docker it can be done")
    if container.status not in _RUNS:
        raise Conflict(_why_not(container))
    assert container.placement is not None  # what has a status is placed
    # Written before it begins: nothing runs that the log does not know. Arguments may be secret, the program is not.
    now, program = context.clock.now(), order.command[0]
    await context.store.write(lambda tx: note(tx, caller, "container.exec", uuid, program, now))
    try:
        return await context.access.execute(
            Ref(container.placement.machine_id, container.id, container.generation), order
        )
    except EngineRejected as error:  # it ended a moment ago
        raise Conflict(str(error)) from error


def _why_not(container: Container) -> str:
    if container.status is not ContainerStatus.SHUTDOWN:
        return f"container {container.uuid} does not run yet: it is {container.status}"
    how = container.reason or (f"exit code {container.exit_code}" if container.exit_code is not None else "")
    return f"container {container.uuid} has ended" + (f": {how}" if how else "")
