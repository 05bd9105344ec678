"""nginx and HAProxy as they would stand in front of containers: one worker, one thread, the ingress's own certificate.

They do what the ingress does where they can: keep connections on both sides, tell the container who asks, log nothing,
and never write an answer to a disk. No TLS settings but the versions: their builds' defaults, of the same OpenSSL.
"""

import contextlib
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.ingress.backend import HOST
from benchmarks.ingress.own import Home
from benchmarks.ingress.program import Program, running

MOST_CONNECTIONS = 8_000
_NGINX = """
daemon off; worker_processes 1; worker_rlimit_nofile {files}; pid {folder}/nginx.pid; {user}
events {{ worker_connections {most}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream container {{
        server {host}:{backend_port};
        keepalive 64; keepalive_requests 1000000000; keepalive_timeout 600s;
    }}
    server {{
        listen {host}:{https} ssl backlog=1024;
        ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
        keepalive_requests 1000000000; keepalive_timeout 600s; client_max_body_size 0;
        location / {{
            proxy_pass http://container;
            proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto https;
            proxy_max_temp_file_size 0; proxy_request_buffering off; proxy_read_timeout 600s;
        }}
    }}
}}
"""
_HAPROXY = """
global
    nbthread 1
    maxconn {most}
defaults
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 600s
frontend https
    mode http
    option forwardfor
    http-request set-header X-Forwarded-Proto https
    bind {host}:{https} ssl crt {pem} ssl-min-ver TLSv1.2 alpn http/1.1
    default_backend container
backend container
    mode http
    server it {host}:{backend_port}
listen raw
    mode tcp
    bind {host}:{raw}
    server it {host}:{backend_port}
listen tls
    mode tcp
    bind {host}:{tls} ssl crt {pem} ssl-min-ver TLSv1.2
    server it {host}:{backend_port}
"""


def found(name: str) -> str | None:
    """Return where a program is, also where a user's own path does not lead."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def version(name: str) -> str:
    """Return a program's name with its version."""
    path = found(name)
    if path is None:
        return f"{name} is not installed"
    told = subprocess.run((path, "-v"), capture_output=True, text=True, check=False)
    number = re.search(r"\d+\.\d+\.\d+", told.stdout + told.stderr)
    return f"{name} {number[0] if number else ''}".strip()


@contextlib.contextmanager
def nginx(path: str, folder: Path, home: Home, backend_port: int, https: int) -> Iterator[Program]:
    """Run nginx: HTTPS on one port."""
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(
        _NGINX.format(
            files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            folder=folder,
            user="user root;" if os.geteuid() == 0 else "",
            most=2 * MOST_CONNECTIONS,  # it counts both sides
            host=HOST,
            backend_port=backend_port,
            https=https,
            certificate=home.certificate,
            key=home.key,
        )
    )
    log = folder / "nginx.log"
    with running((path, "-p", str(folder), "-c", str(config), "-e", str(log)), log) as program:
        program.wait_accepting(https)
        yield program


@contextlib.contextmanager
def haproxy(path: str, folder: Path, home: Home, backend_port: int, ports: tuple[int, int, int]) -> Iterator[Program]:
    """Run HAProxy: HTTPS, raw TCP and TLS around TCP on a port each, in this order."""
    folder.mkdir(mode=0o700)
    pem, config = folder / "both.pem", folder / "haproxy.cfg"
    pem.write_bytes(home.certificate.read_bytes() + home.key.read_bytes())
    https, raw, tls = ports
    config.write_text(
        _HAPROXY.format(
            most=MOST_CONNECTIONS, host=HOST, backend_port=backend_port, https=https, raw=raw, tls=tls, pem=pem
        )
    )
    with running((path, "-db", "-f", str(config)), folder / "haproxy.log") as program:
        program.wait_accepting(tls)
        yield program
