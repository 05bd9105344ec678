"""What a proxy's configuration says of one service; pure.

Whoever may write the registry must not be able to write the proxy's configuration: ids, schemes, hosts, ports and
limits are checked one by one, and an endpoint that is anything but those is left out, with a reason. Nothing else of
a set reaches a block; service names do as ``block_names`` writes them, and in a comment.

nginx gets ``upstream`` blocks, to be included within ``http { }``. An upstream must have a server, so a set that says
*nobody* becomes one that is down (502). Services of raw TCP are left out: they would need a second file, within
``stream { }``. haproxy gets a whole ``backend`` per service. Both take ready containers from the set alone; haproxy's
own checks only connect, so a busy container is not taken for a dead one.
"""

import hashlib
import ipaddress
import re
import ssl
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from muster.model.deployment import PortProtocol
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_NAME_LENGTH = 100
_LARGEST_LIMIT = 1_000_000
_ZONE_KILOBYTES = 256
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Template(StrEnum):
    """The proxies whose configuration can be written."""

    NGINX = "nginx"
    HAPROXY = "haproxy"


@dataclass(frozen=True, slots=True)
class Server:
    """An endpoint of which every part is known to be harmless in a configuration."""

    id: str
    scheme: str
    host: str
    port: int
    limit: int | None

    @property
    def address(self) -> str:
        """Host and port, as both proxies write them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """What a request names in ``Host``."""
        return self.host if _DEFAULT_PORTS.get(self.scheme) == self.port else self.address

    @property
    def has_name(self) -> bool:
        """Whether the host is a name, and no address."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False


@dataclass(frozen=True, slots=True)
class Service:
    """What is written of one service. ``ca`` is the file to trust, ``ca_pem`` what belongs into it."""

    name: str
    servers: tuple[Server, ...]
    has_tcp: bool
    ca: Path | None = None
    ca_pem: str | None = None
    skipped: tuple[str, ...] = ()


def block_names(keys: Collection[ServiceKey]) -> dict[ServiceKey, str]:
    """Return what each service is called in a configuration: ``<service>_<port>``.

    A name that is no plain word, or differs from another in capitals or in its account only, gets a few characters of
    a hash. A block keeps its name whatever other services come, since the operator has written it elsewhere.
    """
    found: dict[ServiceKey, str] = {}
    taken: set[str] = set()
    # Small letters first: they keep their name whatever else there is.
    for key in sorted(keys, key=lambda key: (key.service != key.service.lower(), key.account, key.service, key.port)):
        word = re.sub(r"[^A-Za-z0-9_.-]|^[^A-Za-z0-9]", "_", key.service)[:_NAME_LENGTH]
        if word != key.service or f"{word}_{key.port}".lower() in taken:
            word += "-" + hashlib.sha256(f"{key.account}/{key.service}".encode()).hexdigest()[:8]
        found[key] = f"{word}_{key.port}"
        taken.add(found[key].lower())
    return found


def read_service(name: str, found: EndpointSet, folder: Path, *, had_tcp: bool = False) -> Service:
    """Check a set; ``had_tcp`` is what it was when it last had anybody, since an empty one does not tell."""
    servers: dict[str, Server] = {}
    skipped: list[str] = []
    has_tcp = any(each.protocol is PortProtocol.TCP for each in found.endpoints) if found.endpoints else had_tcp
    for endpoint in found.endpoints:
        try:
            server = _server(endpoint)
            if server.id in servers:
                raise ValueError("another one has the same id")
            if (server.scheme == "tcp") is not has_tcp:
                raise ValueError("it does not speak what others of its service do")
            servers[server.id] = server
        except ValueError as error:
            skipped.append(f"endpoint {str(endpoint.id)[:_NAME_LENGTH]!r} is left out: {error}")
    ca_pem = None
    if found.ca_pem is not None and (ca_pem := _certificates(found.ca_pem)) is None:
        skipped.append("its ca_pem holds no certificates and is left out")
    ca = folder / f"{name}.ca.pem" if ca_pem is not None else None
    return Service(name, tuple(servers.values()), has_tcp, ca, ca_pem, tuple(skipped))


def title(key: ServiceKey) -> str:
    """Return a comment that names a service as people do; whatever could end a comment is left out."""
    text = "".join(each for each in str(key) if each.isprintable() and each not in "\\'\"")
    return f"# {text}\n"


def nginx_block(service: Service) -> str:
    """Return an upstream, or a comment for what nginx's ``http`` cannot do."""
    if service.has_tcp:
        return f"# {service.name} speaks raw TCP, which an upstream within http {{ }} cannot: left out\n"
    lines = [*_nginx_advice(service), f"upstream {service.name} {{"]
    if any(server.limit for server in service.servers):  # without shared memory each worker would count for itself
        lines.append(f"    zone {service.name} {max(_ZONE_KILOBYTES, 2 * len(service.servers))}k;")
    for server in service.servers:
        limit = f" max_conns={server.limit}" if server.limit else ""
        lines.append(f"    server {server.address}{limit};  # {server.id}")
    if not service.servers:
        lines.append("    server 127.0.0.1:1 down;  # nobody serves")
    return "\n".join([*lines, "}", ""])


def haproxy_block(service: Service) -> str:
    """Return a backend; one without servers answers 503.

    Where containers are told apart by the host in the request (``<uuid>-6006.gpu.example.com``), each has to be asked
    for its own. haproxy can put nothing there that differs between servers but the server's name, so that is the host.
    """
    lines = [
        f"backend {service.name}",
        f"    mode {'tcp' if service.has_tcp else 'http'}",
        "    balance leastconn",
    ]
    has_names = bool(service.servers) and not service.has_tcp and all(server.has_name for server in service.servers)
    if has_names:
        lines.append("    http-send-name-header Host")
    seen: set[str] = set()
    for server in service.servers:
        name = server.authority if has_names else server.id
        if name not in seen:
            seen.add(name)
            lines.append(_haproxy_server(service, server, name))
    return "\n".join([*lines, ""])


def _haproxy_server(service: Service, server: Server, name: str) -> str:
    words = [f"    server {name} {server.address}"]
    if server.limit:
        words.append(f"maxconn {server.limit}")
    words.append("check")
    if server.has_name:
        words.append("init-addr last,libc,none")  # one name that is not known must not refuse all the others
    if server.scheme == "https":
        words.append(f"ssl verify required ca-file {_quoted(service.ca) if service.ca else '@system-ca'}")
        if server.has_name:
            words.append(f"sni str({server.host}) check-sni {server.host}")
    if name != server.id:
        words.append(f" # {server.id}")
    return " ".join(words)


BLOCKS: Mapping[Template, Callable[[Service], str]] = {
    Template.NGINX: nginx_block,
    Template.HAPROXY: haproxy_block,
}


def join_blocks(template: Template, blocks: Mapping[str, str]) -> str:
    """Return the whole file."""
    parts = [f"{_header(template)}\n"]
    parts += [f"\n# muster begin {name}\n{blocks[name]}# muster end {name}\n" for name in sorted(blocks)]
    return "".join(parts)


def split_blocks(template: Template, text: str) -> dict[str, str]:
    """Undo ``join_blocks``; a file of another template, or not ours, has none."""
    if not text.startswith(_header(template)):
        return {}
    found = re.finditer(r"^# muster begin (\S+)\n(.*?)^# muster end \1$", text, re.MULTILINE | re.DOTALL)
    return {each[1]: each[2] for each in found}


def _header(template: Template) -> str:
    return f"# Written by muster for {template}: it is replaced whole when a service changes."


def _server(endpoint: Endpoint) -> Server:
    """Check an endpoint; raises ``ValueError``, whose message quotes nothing but the id."""
    if not _ID.fullmatch(endpoint.id):
        raise ValueError("its id is no plain word")
    if not (endpoint.url.isascii() and endpoint.url.isprintable()):
        raise ValueError("its url is no plain text")
    try:
        parts = urllib.parse.urlsplit(endpoint.url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError("its url cannot be read") from error
    schemes = {"tcp"} if endpoint.protocol is PortProtocol.TCP else {"http", "https"}
    if parts.scheme not in schemes:
        raise ValueError(f"its url does not begin with {' or '.join(f'{each}://' for each in sorted(schemes))}")
    if "@" in parts.netloc or parts.path not in {"", "/"} or "?" in endpoint.url or "#" in endpoint.url:
        raise ValueError("its url has more than a scheme, a host and a port")
    if not _is_host(host):
        raise ValueError("its url names no host")
    port = _DEFAULT_PORTS.get(parts.scheme) if port is None else port
    if not port:
        raise ValueError("its url names no port")
    limit = endpoint.concurrency
    if limit is not None and (type(limit) is not int or not 0 < limit <= _LARGEST_LIMIT):
        raise ValueError("its concurrency is no count")
    return Server(endpoint.id, parts.scheme, host, port, limit)


def _is_host(text: str) -> bool:
    if ":" in text:
        try:
            return "%" not in text and ipaddress.ip_address(text).version == 6
        except ValueError:
            return False
    return _HOST.fullmatch(text) is not None


def _certificates(pem: object) -> str | None:
    """Return the certificates of a PEM text and nothing else of it, ``None`` if a proxy could not load them."""
    if not isinstance(pem, str):
        return None
    found = "".join(f"{each}\n" for each in _CERTIFICATE.findall(pem))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found)
    except (ssl.SSLError, ValueError):
        return None
    return found


def _nginx_advice(service: Service) -> Iterable[str]:
    """Comments for who writes ``proxy_pass``: nginx keeps TLS apart from the upstream."""
    secure = [server for server in service.servers if server.scheme == "https"]
    if not secure:
        return
    if len(secure) < len(service.servers):
        yield "# Some speak TLS and some do not: nginx cannot serve both through one upstream."
        return
    yield f"# proxy_pass https://{service.name}; with proxy_ssl_verify on; proxy_ssl_server_name on;"
    if service.ca:
        yield f"# proxy_ssl_trusted_certificate {_quoted(service.ca)};"
    hosts = {server.host for server in secure}
    if len(hosts) > 1:
        yield "# Their hosts differ, and nginx compares one name for all of them: haproxy can do this, nginx cannot."
    elif secure[0].has_name:
        yield f"# proxy_ssl_name {secure[0].host};"
    else:
        yield "# proxy_ssl_name localhost;  (Muster's own certificates have it; nginx compares no addresses)"


def _quoted(path: Path) -> str:
    return f"'{path}'"
