"""nginx and HAProxy as they would stand in front of a service: one worker, one thread, connections kept on both sides.

They do what the gateway does where they can: tell the container who asks, log nothing, and never write an answer to a
disk. A stream of events goes through unbuffered, in HAProxy by ``http-no-delay``: it would hold what is not the end of
an answer for 200 ms.
"""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from benchmarks.ingress.backend import HOST
from benchmarks.ingress.program import Program, running

MOST_CONNECTIONS = 8_000
_NGINX = """
daemon off; worker_processes 1; worker_rlimit_nofile {files}; pid {folder}/nginx.pid; {user}
events {{ worker_connections {most}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream service {{
        server {host}:{backend_port};
        keepalive 64; keepalive_requests 1000000000; keepalive_timeout 600s;
    }}
    server {{
        listen {host}:{port} backlog=4096;
        keepalive_requests 1000000000; keepalive_timeout 600s; client_max_body_size 0;
        location / {{
            proxy_pass http://service;
            proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto http;
            proxy_buffering off; proxy_request_buffering off; proxy_read_timeout 600s;
        }}
    }}
}}
"""
_HAPROXY = """
global
    nbthread 1
    maxconn {most}
defaults
    mode http
    option http-no-delay
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 600s
frontend clients
    option forwardfor
    http-request set-header X-Forwarded-Proto http
    bind {host}:{port} backlog 4096
    default_backend service
backend service
    http-reuse always
    server it {host}:{backend_port}
"""


def nginx_config(folder: Path, backend_port: int, port: int) -> str:
    """Return the file for nginx."""
    return _NGINX.format(
        files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        folder=folder,
        user="user root;" if os.geteuid() == 0 else "",
        most=2 * MOST_CONNECTIONS,  # it counts both sides
        host=HOST,
        backend_port=backend_port,
        port=port,
    )


def haproxy_config(backend_port: int, port: int) -> str:
    """Return the file for HAProxy."""
    return _HAPROXY.format(most=MOST_CONNECTIONS, host=HOST, backend_port=backend_port, port=port)


@contextlib.contextmanager
def nginx(path: str, folder: Path, backend_port: int, port: int) -> Iterator[Program]:
    """Run nginx."""
    folder.mkdir()
    config, log = folder / "nginx.conf", folder / "nginx.log"
    config.write_text(nginx_config(folder, backend_port, port))
    with running((path, "-p", str(folder), "-c", str(config), "-e", str(log)), log) as program:
        program.wait_accepting(port)
        yield program


@contextlib.contextmanager
def haproxy(path: str, folder: Path, backend_port: int, port: int) -> Iterator[Program]:
    """Run HAProxy."""
    folder.mkdir()
    config = folder / "haproxy.cfg"
    config.write_text(haproxy_config(backend_port, port))
    with running((path, "-db", "-f", str(config)), folder / "haproxy.log") as program:
        program.wait_accepting(port)
        yield program
