"""The broker that a gateway has of its own, so that its workers, one for each core, wait in one queue.

It runs in the parent, where nothing else is busy, behind a Unix socket in a folder that only this user can enter. Who
gets there may use it and is asked for no token: the workers, and ``muster queue show SERVICE --broker unix:///…``. It
is used where nobody named another broker: several gateways, or a gateway and SDK clients, share one of their own
(``--broker``, or the set's with a token).
"""

import asyncio
import contextlib
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from muster.broker.address import Address
from muster.broker.server import Broker
from muster.broker.services import Services
from muster.clock import SystemClock
from muster.gateway.config import GatewayConfig
from muster.model.ids import random_hex
from muster.model.url import shown
from muster.processes.watch import open_registry

_PREFIX, _SOCKET = "muster-gateway-", "broker"
_FRESH_SECONDS = 60.0
_LONGEST_PLACE = 70
"""Of the 107 bytes that the name of a Unix socket may have, less what comes behind it."""


def is_needed(config: GatewayConfig, token: str, processes: int) -> bool:
    """Whether workers would each have a queue of their own without it."""
    return processes > 1 and config.broker is None and not token


@contextlib.asynccontextmanager
async def own_broker(config: GatewayConfig) -> AsyncIterator[str]:
    """Run one, and say where it is."""

    async def whoever(token: str) -> str:  # noqa: ARG001 the folder has let them in
        return config.account

    registry = open_registry(config.registry_url)
    folder = _folder()
    try:
        where = f"registry {shown(config.registry_url)}"
        services = Services(registry, SystemClock(), where=where, broker=random_hex(8), settle_seconds=0.0)
        broker = Broker(services, whoever)
        running = asyncio.create_task(broker.run(), name="own broker")
        try:
            yield (await broker.listen(Address("unix", path=str(folder / _SOCKET)))).url
        finally:
            running.cancel()
            await asyncio.wait([running])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        await registry.aclose()


def _folder() -> Path:
    """Make one that only this user can enter, and whose sockets have names as short as the system wants them."""
    wanted = tempfile.gettempdir()
    place = Path(wanted if len(wanted) < _LONGEST_PLACE else "/tmp")  # noqa: S108
    _sweep(place)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))


def _sweep(place: Path) -> None:
    """Remove what gateways of this user have left there that were killed."""
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            is_old = time.time() - found.st_mtime > _FRESH_SECONDS  # a younger one may not listen yet
            if found.st_uid == os.getuid() and stat.S_ISDIR(found.st_mode) and is_old and not _is_used(folder):
                shutil.rmtree(folder)


def _is_used(folder: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(str(folder / _SOCKET))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True
