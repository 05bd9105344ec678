"""A registry of a test's own on loopback: Debian's ``docker-registry``, with a password if asked.

In: images, by ``push``. Out: references that a daemon pulls, and ``downloads``: how often each layer was sent, so that
a test can tell one pull from five. It fails as registries do: ``close`` (unreachable), ``pause`` (it hangs), a wrong
password (denied), ``push`` under a name that exists (the tag moves).

Layers are sent as they are, uncompressed: what is measured is Docker and the disk, not gzip.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import bcrypt
import httpx

from tests.docker.images import Image

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_START_SECONDS = 20.0
_POLL_SECONDS = 0.02
_CHUNK_BYTES = 1 << 20


class Registry:
    """One registry; with ``user`` and ``password`` it serves nobody else."""

    def __init__(self, folder: Path, *, user: str = "", password: str = "") -> None:
        self._folder = folder
        self._log = folder / "registry.log"
        self._auth = (user, password) if user else None
        self._process: subprocess.Popen[bytes] | None = None
        self.host = ""

    def __enter__(self) -> Self:
        """Start it on a port that the system chooses."""
        config = self._folder / "registry.json"
        config.write_text(json.dumps(self._config()))
        with self._log.open("wb") as log:
            command = ["docker-registry", "serve", str(config)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while not (found := re.search(r"listening on (127\.0\.0\.1:\d+)", self._log.read_text())):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"the registry does not start:\n{self._log.read_text()}")
            time.sleep(_POLL_SECONDS)
        self.host = found.group(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    def close(self) -> None:
        """End it; what it holds stays in its folder."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Let it hang: it takes connections and answers nobody."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def reference(self, name: str) -> str:
        """Return what a daemon calls ``NAME:TAG`` of this registry."""
        return f"{self.host}/{name}"

    def push(self, image: Image, name: str) -> str:
        """Keep an image as ``NAME:TAG``, in place of what had that name; returns its reference."""
        repository, tag = name.split(":")
        config = image.config()
        with self._client() as client:
            for layer in image.layers:
                self._push_blob(client, repository, layer.digest, layer.size_bytes, layer.path)
            self._push_blob(client, repository, _digest(config), len(config), config)
            manifest = {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": {"mediaType": _CONFIG, "digest": _digest(config), "size": len(config)},
                "layers": [
                    {"mediaType": _LAYER, "digest": layer.digest, "size": layer.size_bytes} for layer in image.layers
                ],
            }
            answer = client.put(
                f"/v2/{repository}/manifests/{tag}",
                content=json.dumps(manifest).encode(),
                headers={"Content-Type": _MANIFEST},
            )
            answer.raise_for_status()
        return self.reference(name)

    def digest(self, name: str) -> str:
        """Return the digest that ``NAME:TAG`` stands for now."""
        repository, tag = name.split(":")
        with self._client() as client:
            answer = client.head(f"/v2/{repository}/manifests/{tag}", headers={"Accept": _MANIFEST})
            return answer.raise_for_status().headers["Docker-Content-Digest"]

    def downloads(self, repository: str) -> Counter[str]:
        """Return how often each blob of a repository was sent, whole or in part, by its digest.

        A registry writes that down when it has sent the last byte, which who asked may have by then.
        """
        sent = rf'"GET /v2/{re.escape(repository)}/blobs/(sha256:\w+) HTTP/[\d.]+" 20[06] '
        return Counter(re.findall(sent, self._log.read_text()))

    def questions(self, repository: str) -> int:
        """Return how often somebody asked what a tag or digest of a repository is, whatever he was told."""
        return len(re.findall(rf'"(?:GET|HEAD) /v2/{re.escape(repository)}/manifests/', self._log.read_text()))

    def _push_blob(
        self, client: httpx.Client, repository: str, digest: str, size_bytes: int, content: Path | bytes
    ) -> None:
        if client.head(f"/v2/{repository}/blobs/{digest}").status_code == httpx.codes.OK:
            return
        begun = client.post(f"/v2/{repository}/blobs/uploads/").raise_for_status()
        where = httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": digest})
        body = content if isinstance(content, bytes) else _chunks(content)
        client.put(where, content=body, headers={"Content-Length": str(size_bytes)}).raise_for_status()

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://{self.host}", auth=self._auth, trust_env=False, timeout=60.0)

    def _config(self) -> dict[str, object]:
        config: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "info", "fields": {}, "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(self._folder / "blobs")}, "delete": {"enabled": True}},
            "http": {"addr": "127.0.0.1:0"},
        }
        if self._auth is not None:
            user, password = self._auth
            file = self._folder / "htpasswd"
            file.write_text(f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds=5)).decode()}\n")
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(file)}}
        return config


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
