"""Muster: elastic GPU-container deployments on your own machines, and a balancer made for GPUs.

What users import::

    import muster

    service = muster.connect("file:///path/to/registry").service("digits")
    client = httpx.AsyncClient(transport=service.async_transport(), base_url="http://digits")

The names below are loaded on first use, so that importing a part of Muster does not load the rest.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0.dev0"

_PUBLIC = {"connect": "muster.sdk", "MusterError": "muster.errors"}
__all__ = ["MusterError", "__version__", "connect"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'muster' has no attribute {name!r}")
