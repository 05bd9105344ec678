"""What Docker tells while it fetches an image → what people are told. Pure.

Docker's own words are told apart because each asks for something else of the reader, and because some pass by
themselves. Registries and versions of Docker word the same thing differently, and put the image's name in between; it
is taken out before anything is looked for, so that ``team/timeout:1`` can be missing like any other.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from muster.model.image import Credential
from muster.model.reference import Reference


class Kind(StrEnum):
    """Why an image cannot be had."""

    NO_SPACE = "no space"
    BUSY = "busy"
    UNTRUSTED = "untrusted"
    UNREACHABLE = "unreachable"
    DENIED = "denied"
    NOT_FOUND = "not found"
    OTHER_PROCESSOR = "other processor"
    FAILED = "failed"


RETRIED = frozenset({Kind.BUSY, Kind.UNREACHABLE})
"""What may pass by itself."""

_PATTERNS = (
    (Kind.NO_SPACE, r"no space left on device|disk quota exceeded"),
    (Kind.BUSY, r"toomanyrequests|too many requests|rate limit"),
    (Kind.UNTRUSTED, r"x509: |http response to https client"),
    (
        Kind.UNREACHABLE,
        (
            r"connection refused|connection reset|broken pipe|no such host|unreachable|no route to host|host is down"
            r"|timeout|timed out|deadline exceeded|\beof\b|tls: |server misbehaving|temporary failure"
            r"|unexpected http status: 5\d\d|bad gateway|service unavailable|internal server error"
        ),
    ),
    (Kind.DENIED, r"denied|unauthorized|authentication required|no basic auth|forbidden|incorrect username"),
    (Kind.OTHER_PROCESSOR, r"no matching manifest|does not match the specified platform"),
    (Kind.NOT_FOUND, r"manifest unknown|name unknown|not found|not known to registry"),
)
_KINDS = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _PATTERNS)
_AWAY = re.compile(
    r"context canceled|is shutting down|daemon is not running|error while dialing|transport is closing|ttrpc: closed",
    re.IGNORECASE,
)

_ADVICE = {
    Kind.NO_SPACE: "no space left on the disk of Docker: free some there, or choose a machine that has more",
    Kind.BUSY: "the registry serves no more for now: try again later, or log in with `muster image login {registry}`",
    Kind.UNTRUSTED: (
        "Docker does not trust the registry: put its certificate into /etc/docker/certs.d/{registry}/ca.crt; if it"
        " speaks plain HTTP, name it in insecure-registries of Docker's daemon.json"
    ),
    Kind.UNREACHABLE: "the registry cannot be reached from this machine: check its address, and that it runs",
    Kind.DENIED: (
        "the registry refuses it{to_whom}: check the name; if it needs a password, `muster image login {registry}`"
    ),
    Kind.NOT_FOUND: "the registry has no such image: check its name and tag",
    Kind.OTHER_PROCESSOR: "the image is not made for the processor of this machine",
    Kind.FAILED: "the fetch failed",
}
_MEGABYTE = 1_000_000


def is_about_docker(said: str) -> bool:
    """Tell whether Docker speaks of itself, on its way down or up, and so of no image."""
    return _AWAY.search(said) is not None


def kind_of(said: str, reference: Reference) -> Kind:
    """Return why Docker refused."""
    for name in (reference.name, reference.path):
        said = said.replace(name, "")
    return next((kind for kind, pattern in _KINDS if pattern.search(said)), Kind.FAILED)


def explain(kind: Kind, said: str, reference: Reference, credential: Credential | None = None) -> str:
    """Return what is wrong and what to do, with Docker's own words. The password is not among them."""
    to_whom = f" to {credential.username}" if credential is not None else ""
    advice = _ADVICE[kind].format(registry=reference.registry, to_whom=to_whom)
    return f"{reference}: {advice} ({said.strip()})"


class Progress:
    """How far one fetch is, in words that change a few times and not a thousand."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._bytes: dict[str, tuple[int, int]] = {}
        self._open: set[str] = set()
        self._told = (-1, -1)
        self.text = f"fetching {reference}"

    def read(self, told: Mapping[str, Any]) -> None:
        """Take in one message of Docker's."""
        status, layer = str(told.get("status", "")), str(told.get("id", ""))
        detail = told.get("progressDetail") or {}
        if status == "Pulling fs layer":
            self._open.add(layer)
        elif status == "Downloading" and detail.get("total"):
            self._bytes[layer] = (int(detail["current"]), int(detail["total"]))
        elif status in {"Download complete", "Pull complete"}:
            self._open.discard(layer)
            _, whole = self._bytes.get(layer, (0, 0))
            self._bytes[layer] = (whole, whole)
        elif status == "Extracting" and not self._open:
            self.text = f"fetching {self._reference}: unpacking"
            return
        self._tell()

    def _tell(self) -> None:
        """Speak anew for each tenth of the whole, which is not known until the last layer has begun."""
        done = sum(each for each, _ in self._bytes.values())
        whole = sum(each for _, each in self._bytes.values())
        step = (10 * done // whole, whole) if whole else self._told
        if step != self._told and self._open:
            self._told = step
            self.text = f"fetching {self._reference}: {done // _MEGABYTE} of {max(1, whole // _MEGABYTE)} MB"
