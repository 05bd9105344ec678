"""The loop of the SFTP process: packets from one descriptor, answers to another, until the first one ends.

Any number of requests may be on their way: what was read is answered in order, and answers are gathered up to
``_FLUSH_BYTES`` before they are written, so what is held is bounded by that and two packets. Who does not read answers
is not read from. ``until`` is a descriptor that becomes readable when the container ends (a pidfd): from then on
nothing is done any more, because its files may be given to its next run.
"""

import contextlib
import os
import select

from muster.engine.sftp import wire
from muster.engine.sftp.server import Server

_CHUNK_BYTES = 1 << 16
_FLUSH_BYTES = 1 << 17


def serve(source: int, sink: int, until: int | None = None) -> bool:
    """Serve one session; returns whether it was ended in order. Raises ``Malformed`` and ``OSError``."""
    with contextlib.closing(Server()) as server:
        os.set_blocking(source, False)
        os.set_blocking(sink, False)
        received, answers = bytearray(), bytearray()
        while _is_ready(source, select.POLLIN, until):
            try:
                chunk = os.read(source, _CHUNK_BYTES)
            except BlockingIOError:
                continue
            if not chunk:
                return not received
            received += chunk
            while (packet := wire.split(received)) is not None:
                answers += server.answer(packet)
                if len(answers) >= _FLUSH_BYTES and not _write(sink, answers, until):
                    return False
            if not _write(sink, answers, until):
                return False
        return False


def _write(sink: int, answers: bytearray, until: int | None) -> bool:
    """Write all answers; returns False when the container ended before."""
    while answers:
        if not _is_ready(sink, select.POLLOUT, until):
            return False
        with contextlib.suppress(BlockingIOError):
            del answers[: os.write(sink, answers[:_CHUNK_BYTES])]
    return True


def _is_ready(descriptor: int, event: int, until: int | None) -> bool:
    """Wait for a descriptor; returns False when the container has ended."""
    poll = select.poll()
    poll.register(descriptor, event)
    if until is not None:
        poll.register(until, select.POLLIN)
    return all(ready != until for ready, _ in poll.poll())
