"""What is wanted and what was seen: the only thing between the loops. ``port.py`` is the contract.

``connect`` is the way to an implementation; only ``processes`` and tests call it.
"""

from concurrent.futures import Executor

from muster.errors import StoreUnavailable
from muster.store.port import Store


def connect(url: str, *, executor: Executor | None = None) -> Store:
    """Open the store at ``url`` (``sqlite:///path``) and bring its schema up to date; blocks for milliseconds.

    ``executor`` runs all transactions instead of the store's own threads; the caller closes it.
    Raises ``StoreUnavailable``, in one line that says what to do.
    """
    if not url.startswith("sqlite:"):
        raise StoreUnavailable(f"no store for {url!r}: write sqlite:///path")
    from muster.store.sql.store import SqlStore  # noqa: PLC0415 - SQLAlchemy is only in the server extra

    return SqlStore(url, executor)
