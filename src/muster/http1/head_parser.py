"""Finds and reads one head, of a request or a response, in bytes as they arrive.

Out: the start line and the fields, as llhttp (strict) reads them. A head ends with its first empty line, and llhttp
must agree to the byte: what two readers see differently is refused. Partial heads go to llhttp as they come, so garbage
is told at once and not when a time is over. What llhttp lets through that we do not is for ``request_head`` and
``response_head``.
"""

import httptools

from muster.errors import MusterError

_END = b"\r\n\r\n"


class BadMessage(MusterError):
    """A message that is not, or not clearly, HTTP. The connection's owner answers ``status`` and closes."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class HeadParser:
    """Reads heads, one after another: ``feed`` until it tells an end, then take ``start_line`` and ``fields``."""

    __slots__ = (
        "_held",
        "_is_complete",
        "_is_request",
        "_llhttp",
        "_most_bytes",
        "_most_fields",
        "fields",
        "start_line",
    )

    def __init__(self, *, is_request: bool, most_bytes: int, most_fields: int) -> None:
        self._is_request = is_request
        self._most_bytes = most_bytes
        self._most_fields = most_fields
        self._held = bytearray()
        self._llhttp: httptools.HttpRequestParser | httptools.HttpResponseParser | None = None
        self._is_complete = False
        self.start_line = b""
        self.fields: list[tuple[bytes, bytes]] = []

    def feed(self, data: bytes) -> int:
        """Return where in ``data`` the head ends, or -1 if it goes on. Raises ``BadMessage``."""
        if self._llhttp is None:
            self._begin()
        held = len(self._held)
        if held:
            self._held += data
            end = self._held.find(_END, max(0, held - 3)) + 4 - held
        else:
            end = data.find(_END) + 4
        if end + held < 4:  # there is no end yet
            if held + len(data) > self._most_bytes:
                raise self._too_large()
            if not held:
                self._held += data
            self._read(data)
            if self._is_complete:
                raise BadMessage(400, "a line of the head does not end with CRLF")
            return -1
        if held + end > self._most_bytes:
            raise self._too_large()
        self._read(data if end == len(data) else data[:end])
        if not self._is_complete:
            raise BadMessage(400, "the head is not complete at its first empty line")
        if len(self.fields) > self._most_fields:
            raise BadMessage(431, f"more than {self._most_fields} header fields")
        whole = self._held if held else data
        self.start_line = bytes(whole[: whole.find(b"\r\n")])
        self._held.clear()
        self._llhttp = None
        return end

    def close(self) -> None:
        """Let go of llhttp's parser, which holds methods of this one: nothing is left for the cycle collector."""
        self._llhttp = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field from llhttp."""
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Take from llhttp that the head is over."""
        self._is_complete = True

    def _begin(self) -> None:
        # A new parser costs 0.3 us; one that goes on would have to be fed the bodies too.
        self._llhttp = httptools.HttpRequestParser(self) if self._is_request else httptools.HttpResponseParser(self)
        self._is_complete = False
        self.fields = []

    def _read(self, data: bytes) -> None:
        try:
            if self._llhttp is not None:
                self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the head is over, and asks for another protocol
        except httptools.HttpParserError as error:
            raise BadMessage(400, str(error) or "not HTTP/1.1") from error

    def _too_large(self) -> BadMessage:
        return BadMessage(431, f"the head is longer than {self._most_bytes} bytes")
