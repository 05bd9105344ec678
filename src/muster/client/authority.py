"""The authority behind containers' HTTPS addresses, as methods of the client."""

from collections.abc import Callable
from typing import Any

from muster.client import wire

MEDIA_TYPE = "application/x-pem-file"


class Authority:
    """Reached as ``client.authority``. ``call`` makes one call of any path."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def pem(self) -> str:
        """Return the certificates to trust, as PEM. Raises ``ApiError`` with status 404 where none are needed."""
        return str(self._call("GET", f"{wire.MUSTER}/ca", named=("", ""), media_type=MEDIA_TYPE).text)
