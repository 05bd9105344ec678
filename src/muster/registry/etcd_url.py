"""What an etcd URL says; pure, but for the certificates it names, which are read at once.

``etcd://HOST[:2379][,HOST…][?prefix=/muster]``, and ``etcds://USER:PASSWORD@HOST?ca=FILE&cert=FILE&key=FILE`` with TLS.
User and password are percent-encoded and may be given with either scheme; ``cert`` and ``key`` say who we are where
etcd wants to know. Without ``ca`` the system's authorities are trusted. No message quotes the URL: it may hold a
password.
"""

import ssl
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

from muster.errors import InvalidSpec

DEFAULT_PORT = 2379
DEFAULT_PREFIX = "/muster"
_FILES = ("ca", "cert", "key")


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files' contents, as gRPC takes them."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class EtcdAddress:
    """Where etcd is, how to talk to it, who we are, and where our keys begin."""

    hosts: tuple[str, ...]
    prefix: str = DEFAULT_PREFIX
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None


def parse(url: str) -> EtcdAddress:
    """Read an etcd URL. Raises ``InvalidSpec`` for one that says too little, too much, or names no readable file."""
    parts = urllib.parse.urlsplit(url)
    userinfo, at, hosts = parts.netloc.rpartition("@")
    user, colon, password = userinfo.partition(":")
    if at and not (user and colon and password):
        raise InvalidSpec("registry", "write user and password as etcd://USER:PASSWORD@HOST")
    if parts.path not in ("", "/") or parts.fragment:
        raise InvalidSpec("registry", "an etcd URL has no path: write ?prefix=/muster behind the hosts")
    query = _query(parts.query)
    unknown = sorted(query.keys() - {"prefix", *_FILES})
    if unknown:
        raise InvalidSpec("registry", f"an etcd URL has no parameter {unknown[0]!r}, only prefix, ca, cert and key")
    is_secure = parts.scheme == "etcds"
    if not is_secure and any(name in query for name in _FILES):
        raise InvalidSpec("registry", "ca, cert and key are for TLS: write etcds://")
    return EtcdAddress(
        hosts=tuple(_host(each) for each in hosts.split(",")),
        prefix=_prefix(query.get("prefix", DEFAULT_PREFIX)),
        user=urllib.parse.unquote(user) if at else None,
        password=urllib.parse.unquote(password) if at else None,
        tls=_tls(query) if is_secure else None,
    )


def _query(text: str) -> dict[str, str]:
    try:
        return dict(urllib.parse.parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text)))
    except ValueError as error:
        raise InvalidSpec("registry", "the part behind ? has to read NAME=VALUE&NAME=VALUE") from error


def _host(text: str) -> str:
    try:
        parts = urllib.parse.urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidSpec("registry", "write an etcd's host as HOST or HOST:PORT") from error
    if not host:
        raise InvalidSpec("registry", "an etcd URL names a host: etcd://HOST[:2379]")
    return f"{f'[{host}]' if ':' in host else host}:{DEFAULT_PORT if port is None else port}"


def _prefix(text: str) -> str:
    if not text.startswith("/"):
        raise InvalidSpec("registry", "the prefix begins with a slash: ?prefix=/muster")
    return text.rstrip("/")


def _tls(query: dict[str, str]) -> Tls:
    if ("cert" in query) != ("key" in query):
        raise InvalidSpec("registry", "cert and key go together")
    ca = query.get("ca", ssl.get_default_verify_paths().cafile or "")
    return Tls(_trusted(ca) if ca else None, *(_own(query["cert"], query["key"]) if "cert" in query else (None, None)))


def _trusted(ca: str) -> bytes:
    """Read authorities as OpenSSL does; gRPC would find out at the first connection, and could not say which file."""
    pem = _read("ca", ca)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode())
    except (ssl.SSLError, ValueError) as error:
        raise InvalidSpec("registry", f"ca={ca} holds no certificate in PEM form") from error
    return pem


def _own(cert: str, key: str) -> tuple[bytes, bytes]:
    read = _read("cert", cert), _read("key", key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise InvalidSpec("registry", f"cert={cert} and key={key} are no pair of PEM files") from error
    return read


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidSpec("registry", f"{name}={path} cannot be read: {error.strerror}") from error
