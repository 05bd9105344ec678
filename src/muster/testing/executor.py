"""An executor without threads, for tests that must be the same each time.

``submit`` runs the function at once, in the caller's thread. Given to ``muster.store.connect``, a transaction takes
place at the moment of the call, so the order of a test's steps is the order of its transactions.
"""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class InlineExecutor(Executor):
    """Runs each function inside ``submit``."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run ``fn`` now; the future is done when this returns."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - a future carries whatever its function raised
            future.set_exception(error)
        return future
