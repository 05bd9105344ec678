"""One request of a client, from its head on: what the reception decides about it, and the record of what became of it.

    a head ▸ reception ─┬─ an answer of our own
                        ├─ needs the body, which is held ▸ reception again
                        └─ let in

Without I/O: the client's connection hands over what comes of the body, and does what is decided. Bodies that decide
are counted over all connections of a process, for as long as they are kept: also while they wait for a replica.
"""

import time

from muster.gateway import answers
from muster.gateway.port import Answer, Decision, NeedsBody, Passage, Record
from muster.gateway.shared import Shared
from muster.gateway.upload import Upload
from muster.http1.request_head import RequestHead

_MOST_DECIDING_BYTES = 256 * 1024 * 1024
"""Of all bodies of a process that are kept whole because they decide: clients may open any number of connections."""


class Visit:
    """One request. ``is_continued``: its client has been told to send the body."""

    __slots__ = (
        "_began_at",
        "_deciding_bytes",
        "_is_over",
        "_needs",
        "_shared",
        "head",
        "is_continued",
        "record",
        "upload",
    )

    def __init__(self, shared: Shared, head: RequestHead, peer: str) -> None:
        limits = shared.hall.limits
        self.head = head
        self.upload = Upload(head, limits.replay_bytes, limits.head_bytes)
        self.record = Record(peer, head.method.decode("latin-1"), head.target.decode("latin-1"))
        self.is_continued = False
        self._began_at = time.monotonic()
        self._deciding_bytes = 0
        self._is_over = False
        self._needs: NeedsBody | None = None
        self._shared = shared

    def ask(self) -> Decision:
        """Return what is to become of it; after ``NeedsBody`` ask again when ``upload`` is complete."""
        upload, record = self.upload, self.record
        body = None if self._needs is None else upload.kept
        decision = self._shared.hall.reception.admit(self.head, record.peer, body, time.monotonic())
        if isinstance(decision, NeedsBody):
            return self._hold(decision)
        record.service, record.key = decision.service, decision.key
        if isinstance(decision, Passage):
            record.tenant = decision.options.ask.tenant
            upload.most_bytes = decision.most_body_bytes
            if upload.is_too_large:
                decision.leave()
                return answers.too_large(upload.most_bytes or 0)
        return decision

    def _hold(self, needs: NeedsBody) -> Decision:
        upload = self.upload
        upload.most_kept_bytes = max(upload.most_kept_bytes, needs.most_bytes)
        upload.most_bytes = needs.most_bytes
        if self._needs is not None or upload.is_too_large:
            return needs.refused
        self._needs = needs
        return self.ask() if upload.is_complete else needs

    def held(self, size: int) -> Answer | None:
        """Count some of a body that decides; return why it is not held."""
        if self.upload.is_too_large and self._needs is not None:
            return self._needs.refused
        self._deciding_bytes += size
        self._shared.deciding_bytes += size
        return answers.too_many_bodies() if self._shared.deciding_bytes > _MOST_DECIDING_BYTES else None

    def forget(self) -> None:
        """Keep nothing of the body any longer: it will not go again."""
        self.upload.forget()
        self._shared.deciding_bytes -= self._deciding_bytes
        self._deciding_bytes = 0

    def over(self, status: int, reason: str) -> None:
        """Tell, once, what became of it."""
        if self._is_over:
            return
        self._is_over = True
        self.forget()
        record = self.record
        record.status, record.reason = status, reason
        record.bytes_in += self.upload.size_bytes
        record.seconds = time.monotonic() - self._began_at
        self._shared.hall.on_done(record)
