"""The certificate that a gateway's worker shows: read at its start, at a reload, and when the files have changed.

Needs ``cryptography``, which is loaded only where there is TLS.
"""

import asyncio
import datetime
import logging
import ssl

from muster.errors import SetupError
from muster.gateway.config import TlsTable

LOOK_SECONDS = 2.0

_log = logging.getLogger(__name__)


class ShownCertificate:
    """``context`` is for listeners, for as long as they listen. Raises ``SetupError`` for files that cannot be used."""

    def __init__(self, tls: TlsTable) -> None:
        try:
            from muster.tls.certificate import GivenFiles  # noqa: PLC0415 cryptography takes a while to load
            from muster.tls.context import ReplaceableContext  # noqa: PLC0415
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("muster"):
                raise
            raise SetupError(f"[tls] needs: pip install 'muster-gpu[gateway]' ({error.name} is missing)") from error
        self._files = GivenFiles(tls.certificate, tls.key)
        self._make = GivenFiles
        self._pair = self._files.open(_now())
        self._context = ReplaceableContext(self._pair)
        self._problem = ""

    @property
    def context(self) -> ssl.SSLContext:
        """What listeners are given."""
        return self._context

    def replace(self, tls: TlsTable) -> None:
        """Show what these files hold from now on. Raises ``SetupError``, and shows what it did."""
        files = self._make(tls.certificate, tls.key)
        pair = files.open(_now())
        self._context.replace(pair)
        self._files, self._pair = files, pair

    async def run(self) -> None:
        """Take over what somebody has renewed, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                pair = await self._files.look(_now())
                if pair is not None and pair is not self._pair:
                    self._context.replace(pair)
                    self._pair = pair
                    _log.info("a new certificate is in force, until %s", pair.expires_at.isoformat(timespec="minutes"))
                self._problem = ""
            except SetupError as error:
                if str(error) != self._problem:
                    _log.warning("%s; the certificate in force stays", error)
                self._problem = str(error)


def check(tls: TlsTable | None) -> None:
    """Raise ``SetupError`` for files that cannot be used."""
    if tls is not None:
        ShownCertificate(tls)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
