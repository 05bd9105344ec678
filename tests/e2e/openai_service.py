"""A small service with OpenAI's chat completions; standard library only. It prints its port, and runs until killed.

It answers the words of the last message, one after another where it is asked to stream. Of ``max_completion_tokens``
fewer than there are words it answers so many; the message ``forever`` is answered until the client goes away.
``GET /seen`` tells, for each completion, the names of the request's headers and whether its answer was sent to the end.
"""

import itertools
import json
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME = sys.argv[1]
seen: list[dict[str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(seen)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        note = {"path": self.path, "headers": [name.lower() for name in self.headers], "is_whole": False}
        seen.append(note)
        if asked.get("stream"):
            self._stream(asked)
        else:
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": " ".join(words(asked))},
                "finish_reason": "stop",
            }
            self._answer(completion("chat.completion", choice))
        note["is_whole"] = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _stream(self, asked: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in words(asked):
            self._event(json.dumps(completion("chat.completion.chunk", {"index": 0, "delta": {"content": word}})))
        self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def words(asked: dict[str, Any]) -> Iterator[str]:
    text = asked["messages"][-1]["content"]
    if text == "forever":
        for number in itertools.count():
            yield str(number)
            time.sleep(0.01)
    yield from itertools.islice(text.split(), asked.get("max_completion_tokens"))


def completion(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {"id": "1", "object": kind, "created": 1, "model": NAME, "choices": [choice]}


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
sys.stdout.write(f"{server.server_address[1]}\n")
sys.stdout.flush()
server.serve_forever()
