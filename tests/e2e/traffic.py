"""Callers that never rest: requests through the SDK, one after the other, for as long as a test changes things.

They are not idempotent, so they are sent again only where no replica has had them: so ``failed`` tells of every request
that a container took with it. Nobody is in a hurry: each caller waits a moment between two requests, or they would slow
down what is watched.
"""

import threading
from collections import Counter
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import httpx

import muster
from muster.errors import MusterError

CALLERS = 2
_BREATH_SECONDS = 0.01
_PATIENCE_SECONDS = 30.0
_NEVER_AGAIN = {"muster": {"idempotent": False}}


class Traffic:
    """Requests to one service from entering to leaving; ``answered`` counts them by the container that answered."""

    def __init__(self, registry_url: str, service: str, *, method: str = "POST") -> None:
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self._registry_url = registry_url
        self._service = service
        self._method = method
        self._is_over = threading.Event()
        self._flows = threading.Event()
        self._stack = ExitStack()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Begin, and wait for the first answer."""
        with ExitStack() as stack:
            connection = stack.enter_context(muster.connect(self._registry_url))
            transport = connection.service(self._service).transport()
            url = f"http://{self._service}"
            client = stack.enter_context(httpx.Client(transport=transport, base_url=url, timeout=_PATIENCE_SECONDS))
            for _ in range(CALLERS):
                caller = threading.Thread(target=self._call, args=(client,))
                caller.start()
                stack.callback(caller.join)
            stack.callback(self._is_over.set)
            assert self._flows.wait(_PATIENCE_SECONDS), f"nobody answers: {self.failed[:3]}"
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop when the requests under way are answered."""
        self._stack.close()

    def _call(self, client: httpx.Client) -> None:
        while not self._is_over.wait(_BREATH_SECONDS):
            try:
                answer = client.request(self._method, "/?from=traffic", extensions=_NEVER_AGAIN).raise_for_status().text
            except (httpx.HTTPError, MusterError) as error:
                with self._lock:
                    self.failed.append(repr(error))
                continue
            with self._lock:
                self.answered[answer[: len(answer) // 2] if self._method == "POST" else answer] += 1
            self._flows.set()
