"""A service that says who it is, and answers as slowly as it is told; standard library only, so that it starts at once.

``GET`` answers the container's uuid, ``POST`` the uuid twice; ``POST /slow`` only the first half, until somebody posts
``/go``.
"""

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ME = os.environ["MUSTER_CONTAINER_UUID"]
GO = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(ME.encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/go":
            GO.set()
            self._answer(b"gone")
        elif self.path == "/slow" and not GO.is_set():
            text = ME.encode() * 2
            self._head(len(text))
            self.wfile.write(text[: len(ME)])
            self.wfile.flush()
            sys.stdout.write("half\n")
            sys.stdout.flush()
            GO.wait()
            self.wfile.write(text[len(ME) :])
        else:
            self._answer(ME.encode() * 2)

    def log_message(self, *args: object) -> None:
        """Say nothing: what is printed is looked at."""

    def _answer(self, text: bytes) -> None:
        self._head(len(text))
        self.wfile.write(text)

    def _head(self, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()


if __name__ == "__main__":
    sys.stdout.write(f"serving as {ME}\n")
    sys.stdout.flush()
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["MUSTER_PORT_6006"])), Handler).serve_forever()
