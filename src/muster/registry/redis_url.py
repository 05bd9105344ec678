"""What a Redis URL says; pure, but for the certificate it names, which is looked at once.

``redis://[USER:PASSWORD@]HOST[:6379][/DB][?prefix=muster]``, and ``rediss://…[?ca=FILE]`` with TLS. A password alone is
written ``:PASSWORD@``; both are percent-encoded. Without ``ca`` the system's authorities are trusted. No message
quotes the URL: it may hold a password.
"""

import ssl
import urllib.parse
from dataclasses import dataclass, field

from muster.errors import InvalidSpec

DEFAULT_PORT = 6379
DEFAULT_PREFIX = "muster"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where Redis is, who we are, and where our keys begin. ``ca`` is a PEM file; without TLS it is ``None``."""

    host: str
    port: int = DEFAULT_PORT
    database: int = 0
    prefix: str = DEFAULT_PREFIX
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    has_tls: bool = False
    ca: str | None = None

    def __str__(self) -> str:
        return f"redis at {f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse(url: str) -> RedisAddress:
    """Read a Redis URL. Raises ``InvalidSpec`` for one that says too little, too much, or names no readable file."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise InvalidSpec("registry", "a Redis URL reads redis://HOST:PORT/DB?prefix=NAME") from error
    if not host:
        raise InvalidSpec("registry", "a Redis URL names a host: redis://HOST[:6379]")
    database = parts.path.removeprefix("/") or "0"
    if not (database.isascii() and database.isdigit()):
        raise InvalidSpec("registry", "behind the host of a Redis URL stands the number of a database: redis://HOST/0")
    if unknown := sorted(query.keys() - {"prefix", "ca"}):
        raise InvalidSpec("registry", f"a Redis URL has no parameter {unknown[0]!r}, only prefix and ca")
    has_tls = parts.scheme == "rediss"
    if "ca" in query and not has_tls:
        raise InvalidSpec("registry", "ca is for TLS: write rediss://")
    return RedisAddress(
        host=host,
        port=DEFAULT_PORT if port is None else port,
        database=int(database),
        prefix=_prefix(query.get("prefix", DEFAULT_PREFIX)),
        user=urllib.parse.unquote(parts.username) if parts.username else None,
        password=urllib.parse.unquote(parts.password) if parts.password else None,
        has_tls=has_tls,
        ca=_trusted(query["ca"]) if "ca" in query else None,
    )


def _prefix(text: str) -> str:
    if not text or text != text.strip() or not text.isprintable():
        raise InvalidSpec("registry", "the prefix of a Redis URL is empty or holds blanks: ?prefix=muster")
    return text


def _trusted(path: str) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except OSError as error:
        reason = error.strerror if error.errno else "holds no certificate in PEM form"
        raise InvalidSpec("registry", f"ca={path}: {reason}") from error
    return path
