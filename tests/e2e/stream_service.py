"""A service of long answers; standard library only. What came in, and when, it writes to the file ``ARRIVALS``.

``GET /stream?seconds=30`` answers a line every 100 ms and ``end`` at the end; ``GET /bytes?count=N`` so many bytes, and
their hash as a trailing header would be too late, so ``GET /hash?count=N`` tells it; ``PUT /bytes`` the hash of what it
was given. ``GET /`` answers at once.
"""

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ME = os.environ["MUSTER_CONTAINER_UUID"]
BLOCK = bytes(range(256)) * 4096  # 1 MiB
_writing = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        note(self.path)
        parts = urlsplit(self.path)
        words = {name: each[0] for name, each in parse_qs(parts.query).items()}
        if parts.path == "/stream":
            self._stream(float(words["seconds"]))
        elif parts.path == "/bytes":
            self._head(int(words["count"]))
            for block in blocks(int(words["count"])):
                self.wfile.write(block)
        elif parts.path == "/hash":
            digest = hashlib.sha256()
            for block in blocks(int(words["count"])):
                digest.update(block)
            self._answer(digest.hexdigest().encode())
        else:
            self._answer(ME.encode())

    def do_PUT(self) -> None:
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left:
            block = self.rfile.read(min(left, len(BLOCK)))
            left -= len(block)
            digest.update(block)
        self._answer(digest.hexdigest().encode())

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _stream(self, seconds: float) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._chunk(f"{ME}\n".encode())
            time.sleep(0.1)
        self._chunk(b"end\n")
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _answer(self, text: bytes) -> None:
        self._head(len(text))
        self.wfile.write(text)

    def _head(self, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def blocks(count: int) -> Iterator[bytes]:
    while count > 0:
        yield BLOCK[:count]
        count -= len(BLOCK)


def note(path: str) -> None:
    line = f"{time.time():.3f} {ME} {path}\n"
    with _writing, open(os.environ["ARRIVALS"], "a") as file:  # noqa: PTH123  one thing less to import
        file.write(line)


if __name__ == "__main__":
    Server(("127.0.0.1", int(os.environ["MUSTER_PORT_6006"])), Handler).serve_forever()
