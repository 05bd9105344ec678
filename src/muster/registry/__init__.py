"""Where complete endpoint sets are published and watched. ``port.py`` is the contract.

``connect(url)`` is the only way in: the scheme names the module, which is imported on first use, so that a registry's
driver is needed only by those who use that registry.
"""

from importlib import import_module

from muster.errors import InvalidSpec, SetupError
from muster.model.url import shown
from muster.registry.port import Registry

_MODULES = {
    "memory": "muster.registry.memory",
    "file": "muster.registry.file",
    "redis": "muster.registry.redis",
    "rediss": "muster.registry.redis",
    "etcd": "muster.registry.etcd",
    "etcds": "muster.registry.etcd",
    "muster+http": "muster.registry.api",
    "muster+https": "muster.registry.api",
}
_EXTRAS = {"redis": "redis", "rediss": "redis", "etcd": "etcd", "etcds": "etcd"}


def connect(url: str) -> Registry:
    """Open the registry that ``url`` names (docs/registries.md); nothing is contacted yet.

    Raises ``InvalidSpec`` for an unknown scheme and for a URL that its registry cannot mean, ``SetupError`` where the
    registry's driver is not installed.
    """
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if scheme not in _MODULES:
        known = ", ".join(f"{each}://" for each in _MODULES)
        raise InvalidSpec("registry", f"{shown(url)!r} is no registry URL: it has to start with one of {known}")
    try:
        module = import_module(_MODULES[scheme])
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(scheme)
        if extra is None or (error.name or "").startswith("muster"):
            raise
        raise SetupError(f"{scheme}:// needs: pip install 'muster-gpu[{extra}]'") from error
    try:
        opened: Registry = module.open_url(url)
    except ValueError as error:  # from urllib
        raise InvalidSpec("registry", f"{shown(url)!r} is no URL") from error
    return opened
