"""Where containers really run. ``port.py`` is the contract; each other module is one way to fulfil it.

``connect(url)`` is the only way in: the scheme names the module, which is imported on first use.
"""

from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from muster.engine.port import Engine
from muster.errors import SetupError

__all__ = ["Engine", "connect"]

_DOCKER = "docker+"


def connect(url: str, **options: Any) -> Engine:
    """Return the engine that a URL names; ``options`` are those of its class. Raises ``SetupError`` for any other.

    ``local:///absolute/folder``, ``docker+unix:///path/of/socket`` or ``docker+tcp://host:port``.
    """
    if url.startswith((f"{_DOCKER}unix:///", f"{_DOCKER}tcp://")):
        try:
            docker = import_module("muster.engine.docker.engine")
        except ModuleNotFoundError as error:
            missing = error.name
            raise SetupError(f"engine docker needs: pip install 'muster-gpu[docker]' ({missing} is missing)") from error
        made: Engine = docker.DockerEngine(url.removeprefix(_DOCKER), **options)
        return made
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.scheme != "local":
        raise SetupError(f"engine {url!r}: unknown scheme {parts.scheme!r}, known are local, docker+unix, docker+tcp")
    if parts.netloc or not path.is_absolute() or path == Path("/"):
        raise SetupError(f"engine {url!r}: write it as local:///absolute/folder")
    from muster.engine.local import LocalEngine  # noqa: PLC0415  only who uses an engine pays for it

    return LocalEngine(path, **options)
