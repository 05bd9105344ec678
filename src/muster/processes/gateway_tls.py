"""The certificate that a gateway's worker shows: read at its start, at a reload, and when the files have changed.

Needs ``cryptography``, which is loaded only where there is TLS.
"""

import asyncio
import datetime
import logging
import ssl
from typing import TYPE_CHECKING

from muster.errors import SetupError
from muster.gateway.config import TlsTable

if TYPE_CHECKING:
    from muster.tls.pair import Pair

LOOK_SECONDS = 2.0

_log = logging.getLogger(__name__)


class ShownCertificate:
    """``context`` is for listeners, for as long as they listen; ``pem`` is what it shows, with the key.

    ``spare`` is such a text, for a worker that is started again while the files cannot be used (they are being
    replaced, or the certificate has expired): its sockets have clients, who would wait. Raises ``SetupError`` for files
    that cannot be used, without a spare.
    """

    def __init__(self, tls: TlsTable, spare: str = "") -> None:
        try:
            from muster.tls.certificate import GivenFiles  # noqa: PLC0415 cryptography takes a while to load
            from muster.tls.context import ReplaceableContext  # noqa: PLC0415
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("muster"):
                raise
            raise SetupError(f"[tls] needs: pip install 'muster-gpu[gateway]' ({error.name} is missing)") from error
        self._make = GivenFiles
        self._files = GivenFiles(tls.certificate, tls.key)
        self._problem = ""
        try:
            self._pair = self._files.open(_now())
        except SetupError as error:
            if not spare:
                raise
            _log.warning("%s; showing what was shown before", error)
            self._pair = _from(tls, spare)
        self._context = ReplaceableContext(self._pair)

    @property
    def pem(self) -> str:
        """What is shown, with the key."""
        return self._pair.pem.decode()

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


def read(tls: TlsTable | None) -> str:
    """Return what a worker would show, with the key; empty without TLS. Raises ``SetupError``."""
    return "" if tls is None else ShownCertificate(tls).pem


def _from(tls: TlsTable, pem: str) -> "Pair":
    from cryptography import x509  # noqa: PLC0415

    from muster.tls.pair import Pair  # noqa: PLC0415

    return Pair(tls.certificate, x509.load_pem_x509_certificates(pem.encode())[0], pem.encode())


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
