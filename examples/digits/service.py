"""A small service: trains a classifier of handwritten digits when it starts, then answers ``POST /classify``.

The data are scikit-learn's own 1,797 images of 8 x 8 pixels (a copy of the test set of the UCI ML hand-written digits
data set), so nothing is downloaded. Body ``{"image": [64 numbers from 0 to 16]}``, answer ``{"digit": 7}``.
``GET /healthz`` answers once the model is trained. It binds the port that the platform names where containers share the
host's, and port 6006 anywhere else.
"""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.svm import SVC


def train() -> SVC:
    """Fit on every second image; the same input gives the same model everywhere."""
    images, digits = load_digits(return_X_y=True)
    return SVC(gamma=0.001).fit(images[::2], digits[::2])


class Handler(BaseHTTPRequestHandler):
    """Two routes; connections are kept alive."""

    protocol_version = "HTTP/1.1"
    model: SVC

    def do_GET(self) -> None:
        """Say that the model is ready, and which process this is."""
        if self.path == "/healthz":
            self._answer(200, {"pid": os.getpid(), "container": os.environ.get("MUSTER_CONTAINER_UUID", "")})
        else:
            self._answer(404, {"error": f"no {self.path} here"})

    def do_POST(self) -> None:
        """Classify one image."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/classify":
            self._answer(404, {"error": f"no {self.path} here"})
            return
        try:
            image = np.asarray(json.loads(body)["image"], dtype=float).reshape(1, 64)
        except (ValueError, KeyError, TypeError) as error:
            self._answer(400, {"error": f'send {{"image": [64 numbers]}}: {error}'})
            return
        self._answer(200, {"digit": int(self.model.predict(image)[0])})

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is the base class's
        """Keep quiet about each request."""

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        payload = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


def main() -> None:
    """Train, then serve until the platform ends the process."""
    Handler.model = train()
    print("the model is trained", flush=True)
    told = os.environ.get("MUSTER_PORT_6006")
    address = ("127.0.0.1", int(told)) if told else ("0.0.0.0", 6006)
    server = ThreadingHTTPServer(address, Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
