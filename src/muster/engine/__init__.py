"""Where containers really run. ``port.py`` is the contract; each other module is one way to fulfil it.

``connect(url)`` is the only way in: the scheme names the module, which is imported on first use.
"""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from muster.engine.port import Engine
from muster.errors import SetupError

__all__ = ["Engine", "connect"]


def connect(url: str) -> Engine:
    """Return the engine that a URL names: ``local:///absolute/folder``. Raises ``SetupError`` for any other."""
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.scheme != "local":
        raise SetupError(f"engine {url!r}: unknown scheme {parts.scheme!r}, known is local")
    if parts.netloc or not path.is_absolute() or path == Path("/"):
        raise SetupError(f"engine {url!r}: write it as local:///absolute/folder")
    from muster.engine.local import LocalEngine  # noqa: PLC0415  only who uses an engine pays for it

    return LocalEngine(path)
