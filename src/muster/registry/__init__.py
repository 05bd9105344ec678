"""Where complete endpoint sets are published and watched. ``port.py`` is the contract.

``connect(url)`` is the only way in: the scheme names the module, which is imported on first use, so that a registry's
driver is needed only by those who use that registry.
"""

import urllib.parse
from importlib import import_module

from muster.errors import InvalidSpec
from muster.registry.port import Registry

_MODULES = {
    "memory": "muster.registry.memory",
    "file": "muster.registry.file",
    "muster+http": "muster.registry.api",
    "muster+https": "muster.registry.api",
}


def connect(url: str) -> Registry:
    """Open the registry that ``url`` names: ``memory://NAME``, ``file:///ABSOLUTE/FOLDER`` or ``muster+https://HOST``.

    Nothing is contacted yet. Raises ``InvalidSpec`` for an unknown scheme and for a URL that its registry cannot mean.
    """
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in _MODULES:
        known = ", ".join(f"{each}://" for each in _MODULES)
        raise InvalidSpec("registry", f"{url!r} is no registry URL: it has to start with one of {known}")
    registry: Registry = import_module(_MODULES[scheme]).open_url(url)
    return registry
