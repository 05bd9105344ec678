"""Service keys as file names and back; pure.

Letters and digits of any script and ``-_.`` stay readable; every other character, and a leading dot, becomes the
percent form of its UTF-8 bytes, so no name leaves its folder, hides, or begins with ``@``, which is the registry's
own. Percent-encoding every non-ASCII letter was refused: a file name holds 255 bytes, and a Chinese name would fill
nine of them with each character.
"""

import urllib.parse

from muster.errors import InvalidSpec
from muster.model.endpoint import ServiceKey

_SAFE = frozenset("-_.")


def encode(name: str) -> str:
    """Return ``name`` as a file name."""
    if not name:
        raise InvalidSpec("service key", "has an empty part")
    return "".join(
        char if (char.isalnum() or char in _SAFE) and not (char == "." and at == 0) else _percent(char)
        for at, char in enumerate(name)
    )


def decode(file_name: str) -> str:
    """Undo ``encode``."""
    return urllib.parse.unquote(file_name)


def relative_path(key: ServiceKey) -> str:
    """Return ``account/service/port.json``."""
    return f"{encode(key.account)}/{encode(key.service)}/{key.port}.json"


def key_of(account: str, service: str, file_name: str) -> ServiceKey | None:
    """Read a key back from its three path parts; ``None`` for a file that is not named like one."""
    port = file_name.removesuffix(".json")
    if port == file_name or not (port.isascii() and port.isdigit()):
        return None
    return ServiceKey(decode(account), decode(service), int(port))


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
