"""The SSH gateway inside the ingress: opened once the home has an engine, given each table, reopened if that changes.

The ingress may start before the server, which chooses the engine at a home's first start. Until then SSH ports are not
open, and that is all. The gateway is imported only then: what it needs is slow to load, and the addresses of a killed
ingress are to be back before.
"""

import asyncio
import contextlib
import logging
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from muster.clock import Clock
from muster.config import Settings
from muster.engine.port import Engine
from muster.errors import SetupError
from muster.ingress.board import Board
from muster.processes.engines import open_engine, remembered
from muster.processes.storage import file_storage

if TYPE_CHECKING:
    from muster.ssh.gateway import SshGateway

LOOK_SECONDS = 1.0
_INSTALLATION = "installation"
_log = logging.getLogger(__name__)


class SshDesk:
    """Brings tables to the gateway while ``run``; sessions go on until it is left."""

    def __init__(self, settings: Settings, board: Board, clock: Clock) -> None:
        self._settings = settings
        self._board = board
        self._clock = clock
        self._gateway: SshGateway | None = None
        self._engine: Engine | None = None
        self._engine_name = ""
        self._trouble = ""
        self._changed = asyncio.Event()
        board.on_change(self._changed.set)

    async def __aenter__(self) -> Self:
        """Nothing is open yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every session."""
        await self._close()

    @property
    def sessions(self) -> int:
        """How many sessions are open."""
        return 0 if self._gateway is None else self._gateway.sessions

    @property
    def failed_logins(self) -> int:
        """How many logins were refused."""
        return 0 if self._gateway is None else self._gateway.failed_logins

    async def run(self) -> None:
        """Follow the board, for ever; what could not be done is tried again every second."""
        while True:
            self._changed.clear()
            is_done = await self._follow()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if is_done else LOOK_SECONDS):
                    await self._changed.wait()

    async def _follow(self) -> bool:
        table = self._board.table
        if table is None:
            return True
        gateway = await self._open()
        if gateway is None:
            return False
        failures = await gateway.apply(table)
        self._board.tell_failures(failures)
        return not failures

    async def _open(self) -> "SshGateway | None":
        """Return the gateway to the home's present engine, ``None`` while there is none."""
        name, installation = remembered(self._settings.home), _installation(self._settings.home)
        if not name or not installation:
            return None
        if name != self._engine_name:
            await self._close()
            try:
                self._gateway = self._made(name, installation)
            except SetupError as error:
                if str(error) != self._trouble:
                    _log.error("there are no SSH logins: %s", error)
                self._trouble = str(error)
                await self._close()
                return None
            self._engine_name = name
        return self._gateway

    def _made(self, name: str, installation: str) -> "SshGateway":
        from muster.ssh.gateway import SshGateway  # noqa: PLC0415

        settings = self._settings
        self._engine = open_engine(settings, name, installation, file_storage(settings))
        return SshGateway(self._engine, home=settings.home, host=settings.ingress_listen_host, clock=self._clock)

    async def _close(self) -> None:
        gateway, self._gateway = self._gateway, None
        if gateway is not None:
            await gateway.aclose()
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.aclose()
        self._engine_name = ""


def _installation(home: Path) -> str:
    """Return the id that the server drew for this home, empty before; it is the server's to draw."""
    with contextlib.suppress(FileNotFoundError):
        return (home / _INSTALLATION).read_text(encoding="ascii").strip()
    return ""
