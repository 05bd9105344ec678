"""The authority that clients are given to trust: in every endpoint set, and by ``GET /api/v1/muster/ca``."""

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from muster.errors import SetupError
from muster.tls.authority import ca_pem

_log = logging.getLogger(__name__)


def published_ca(tls_ca: Path | None, home: Path, *, uses_own: bool) -> Callable[[], str | None]:
    """Return who tells the authority now, as PEM.

    That of the installation where ``uses_own``; else what the operator's file ``tls_ca`` holds; and ``None`` where
    there is no such file, because the operator's certificate is from an authority that everybody knows. The file is
    read again at each call; one that became unreadable leaves the last content in force. Raises ``SetupError`` if
    there is nothing to begin with, one line that names the file.
    """
    if uses_own:
        own = ca_pem(home)
        return lambda: own
    if tls_ca is None:
        return lambda: None
    return _OperatorsFile(tls_ca)


class _OperatorsFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = ""
        self._last = self._read()
        self._is_troubled = False

    def __call__(self) -> str:
        try:
            self._last = self._read()
            self._is_troubled = False
        except SetupError as error:
            if not self._is_troubled:
                _log.warning("%s; clients are told what it held before", error)
            self._is_troubled = True
        return self._last

    def _read(self) -> str:
        try:
            text = self._path.read_text(encoding="ascii")
        except FileNotFoundError as error:
            raise SetupError(f"{self._path}: there is no such file") from error
        except UnicodeDecodeError as error:
            raise SetupError(f"{self._path}: holds no certificate in PEM form") from error
        except OSError as error:
            raise SetupError(f"{self._path}: cannot be read: {error.strerror}") from error
        if text and text == self._last:
            return text
        try:  # as clients will: they could not balance over a set with something else in it
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError) as error:
            raise SetupError(f"{self._path}: holds no certificate in PEM form") from error
        return text
