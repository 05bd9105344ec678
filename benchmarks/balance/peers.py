"""nginx and HAProxy as a competent operator would set them who knows the replicas' slots, but not their speed.

* Weights are the slots, where they differ. Speeds are unknown: who could type them could also type the sizes.
* Connections are kept on both sides; nothing is logged; one worker, one thread.
* A request that a replica breaks off goes to another one; these are GET requests, which may be repeated.
* HAProxy looks at each replica twice a second and takes it out at the first refused connection. nginx of Debian has no
  active checks: it leaves a replica alone for a second after two failures.
* With ``maxconn`` HAProxy's queue is central: a server gets no more than its slots, and what waits goes to whoever is
  free first. Where requests have a deadline, it is the queue's time-out, and who has left is taken out of the queue.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.balance.fleet import Fleet
from benchmarks.balance.replica import HEALTH_PATH, HOST
from benchmarks.balance.shapes import HAPROXY_EACH, HAPROXY_LEAST, HAPROXY_QUEUE, NGINX_LEAST, NGINX_ROUND_ROBIN
from benchmarks.ingress.peers import found, version
from benchmarks.ingress.program import Program, running

_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; {user}
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream replicas {{
        {policy}
        {servers}
        keepalive 256; keepalive_requests 1000000000; keepalive_timeout 600s;
    }}
    server {{
        listen {host}:{port} backlog=1024;
        keepalive_requests 1000000000; keepalive_timeout 600s;
        location / {{
            proxy_pass http://replicas;
            proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_connect_timeout 1s; proxy_read_timeout 600s;
            proxy_next_upstream error timeout;
        }}
    }}
}}
"""
_HAPROXY = """
global
    nbthread 1
    maxconn 8192
defaults
    mode http
    timeout connect 1s
    timeout client 600s
    timeout server 600s
    timeout queue {queue_seconds}s
    timeout http-keep-alive 600s
    option abortonclose
    option redispatch 1
    retries 3
    retry-on conn-failure empty-response response-timeout
frontend clients
    bind {host}:{port}
    default_backend replicas
backend replicas
    balance leastconn
    http-reuse always
    option httpchk GET {health}
    default-server check inter 500ms fastinter 100ms fall 1 rise 1 observe layer4 error-limit 1 on-error mark-down
    {servers}
"""


def nginx_config(folder: Path, port: int, fleet: Fleet, ports: Sequence[int], *, is_least: bool) -> str:
    """Return the file for nginx."""
    servers = [
        f"server {HOST}:{each} weight={weight} max_fails=2 fail_timeout=1s;"
        for each, weight in zip(ports, _weights(fleet), strict=True)
    ]
    return _NGINX.format(
        folder=folder,
        user="user root;" if os.geteuid() == 0 else "",
        policy="least_conn;" if is_least else "",
        servers="\n        ".join(servers),
        host=HOST,
        port=port,
    )


def haproxy_config(
    port: int, fleet: Fleet, ports: Sequence[int], *, has_queue: bool, deadline: float | None = None
) -> str:
    """Return the file for HAProxy."""
    servers = [
        f"server {unit.name} {HOST}:{each} weight {weight}{f' maxconn {unit.slots}' if has_queue else ''}"
        for unit, each, weight in zip(fleet, ports, _weights(fleet), strict=True)
    ]
    return _HAPROXY.format(
        host=HOST,
        port=port,
        health=HEALTH_PATH,
        servers="\n    ".join(servers),
        queue_seconds=f"{600 if deadline is None else deadline:g}",
    )


def program_of(balancer: str) -> str | None:
    """Return where a peer's program is; ``None`` if it is not installed."""
    return found("nginx" if balancer in (NGINX_LEAST, NGINX_ROUND_ROBIN) else "haproxy")


def versions() -> str:
    """Return what was measured."""
    return ", ".join(map(version, ("nginx", "haproxy")))


@contextlib.contextmanager
def proxy(
    balancer: str, folder: Path, port: int, fleet: Fleet, ports: Sequence[int], *, deadline: float | None = None
) -> Iterator[Program]:
    """Run a peer before replicas that listen on ``ports``."""
    path = program_of(balancer)
    if path is None:
        raise RuntimeError(f"{balancer} is not installed: scripts/servers ensure")
    config, log = folder / "proxy.conf", folder / "proxy.log"
    if balancer in (HAPROXY_LEAST, HAPROXY_QUEUE, HAPROXY_EACH):
        has_queue = balancer == HAPROXY_QUEUE
        config.write_text(haproxy_config(port, fleet, ports, has_queue=has_queue, deadline=deadline))
        command: tuple[str, ...] = (path, "-db", "-f", str(config))
    else:
        config.write_text(nginx_config(folder, port, fleet, ports, is_least=balancer == NGINX_LEAST))
        command = (path, "-p", str(folder), "-c", str(config), "-e", str(log))
    with running(command, log) as program:
        program.wait_accepting(port)
        yield program


def _weights(fleet: Fleet) -> list[int]:
    return [unit.slots for unit in fleet]
