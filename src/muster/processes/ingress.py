"""``muster ingress``: every container's addresses and SSH login, as one task group, apart from the server.

::

    server ─▸ subscriber ─▸ snapshot ─▸ board ─▸ gates, listeners, SSH        clients ◂─▸ listeners ◂─▸ containers
    server ◂─ reporter ◂─ board

It may be killed at any instruction and comes back with the same addresses from its snapshot, whether or not there is a
server. Asked to stop it accepts nothing more, lets what is in flight come to its end for as long as a drain may take,
and ends; asked again it ends at once.

Exit codes are those of the server: 0 was asked to stop, ``EXIT_SETUP`` cannot start as told, others are crashes.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvloop

from muster.clock import SystemClock
from muster.config import Settings, load_settings
from muster.errors import MusterError, SetupError
from muster.home import INGRESS_TOKEN, shared_secret
from muster.ingress.board import Board, Domain, hosts_of
from muster.ingress.doors import WILDCARDS
from muster.ingress.http.listening import Guests
from muster.ingress.http.protocol import http_protocol
from muster.ingress.metrics import AnswerCounts, Figures
from muster.ingress.names import ServerNames
from muster.ingress.reception import Reception
from muster.ingress.reporter import Reporter
from muster.ingress.snapshot import Snapshot
from muster.ingress.status import status_app
from muster.ingress.subscriber import Subscriber
from muster.ingress.upstream import Upstream
from muster.model.ids import random_hex
from muster.processes import descriptors
from muster.processes.child import EXIT_SETUP
from muster.processes.http import HttpServer, listening
from muster.processes.ingress_ssh import SshDesk
from muster.processes.locks import INGRESS_LOCK, HomeLock
from muster.processes.signals import STOPPING, until_stopped
from muster.tls.certificate import Certificates

LOCK = INGRESS_LOCK
STATUS_HOST = "127.0.0.1"

_LAST_BYTES_SECONDS = 2.0

_log = logging.getLogger("muster.processes.ingress")  # not __name__, which is __main__ under the supervisor
_TALKATIVE = ("asyncssh", "httpcore", "httpx", "uvicorn")


def run(settings: Settings) -> None:
    """Run the ingress until SIGINT or SIGTERM. Raises ``MusterError`` when it cannot start."""
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if settings.log_level != "debug":
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    _raise_limit(settings.ingress_connections)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Hold the lock, open what the snapshot says, and run until stopped."""
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        lock = stack.enter_context(HomeLock(settings.home / LOCK, "ingress"))
        _check_host(settings.ingress_listen_host)
        token = shared_secret(settings.home / INGRESS_TOKEN)
        certificates = Certificates.open(
            settings.home, names=_names(settings), certificate=settings.tls_certificate, key=settings.tls_key
        )
        reception = await stack.enter_async_context(Reception(certificates.context, settings.ingress_connections))
        answers, guests = AnswerCounts(), Guests()
        board = Board(
            random_hex(8),
            settings.ingress_listen_host,
            reception,
            lambda resolve: http_protocol(resolve, on_answer=answers.note, guests=guests),
            _domain(settings, certificates),
        )
        stack.callback(board.close)
        board.on_change(_covering(board, certificates))
        snapshot = Snapshot(settings.home)
        last = snapshot.read()
        if last is None:
            board.open_doors()
        else:
            board.apply(last)
            _log.info(
                "%d containers as they last were, with %d bind failures", len(last.routes), len(board.bind_failures)
            )
        desk = await stack.enter_async_context(SshDesk(settings, board, clock))
        upstream = Upstream(settings.home)
        stack.push_async_callback(upstream.aclose)
        listener = stack.enter_context(_status_listener(settings.ingress_status_port))
        lock.tell(url=f"http://{STATUS_HOST}:{listener.getsockname()[1]}")

        def figures() -> Figures:
            return _figures(board, answers, reception, certificates, desk)

        async with until_stopped() as group:
            group.create_task(board.run(clock), name="bind failures")
            group.create_task(certificates.run(clock), name="certificates")
            group.create_task(Subscriber(upstream, snapshot, board, clock).run(), name="routes")
            group.create_task(Reporter(upstream, board, clock).run(), name="load report")
            group.create_task(desk.run(), name="ssh")
            group.create_task(HttpServer(listener).run(status_app(board, figures, token)), name="status")
        await _drain(board, guests, reception, settings.longest_drain_seconds)


async def _drain(board: Board, guests: Guests, reception: Reception, patience_seconds: float) -> None:
    """Let what is in flight end; a second signal ends the process as if we had never asked for signals.

    What is in flight is over when its last byte was written, which a slow client has yet to take.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)
    board.close()
    guests.send_off()
    if not await board.quiet(patience_seconds):
        _log.warning("%d requests and connections did not end in %.1f s", board.in_flight, patience_seconds)
        return
    guests.send_off()
    await reception.empty(_LAST_BYTES_SECONDS)


def _names(settings: Settings) -> set[str]:
    """Return by which names clients connect, as far as they are known without a table."""
    told = {settings.ingress_public_host, settings.ingress_listen_host, "localhost", "127.0.0.1"}
    names = {name for name in told if name not in WILDCARDS}
    return names | ({f"*.{settings.ingress_domain}"} if settings.ingress_domain else set())


def _domain(settings: Settings, certificates: Certificates) -> Domain | None:
    if settings.ingress_domain is None:
        return None
    return Domain(settings.ingress_domain, settings.ingress_domain_port, ServerNames(certificates.context))


def _covering(board: Board, certificates: Certificates) -> Callable[[], None]:
    """Return what makes the certificate valid for every address of the table in force."""
    covered: set[str] = set()

    def cover() -> None:
        new = hosts_of(board.table.routes) - covered if board.table else frozenset()
        if new:
            certificates.add_names(new)
            covered.update(new)

    return cover


def _figures(
    board: Board, answers: AnswerCounts, reception: Reception, certificates: Certificates, desk: SshDesk
) -> Figures:
    epoch, revision = board.fence
    return Figures(
        gates=tuple(board.gates.values()),
        answers=answers,
        epoch=epoch,
        revision=revision,
        bind_failures=len(board.bind_failures),
        open_connections=reception.open,
        turned_away=reception.turned_away,
        failed_connections=dict(reception.failures),
        certificate_expires_at=certificates.expires_at.timestamp(),
        ssh_sessions=desk.sessions,
        failed_logins=desk.failed_logins,
    )


@contextlib.contextmanager
def _status_listener(port: int) -> Iterator[socket.socket]:
    """Listen for whoever watches; containers' addresses do not depend on whether the usual port is free."""
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(listening(STATUS_HOST, port))
        except SetupError as error:
            _log.warning("%s; telling the status on a free port", error.__cause__ or error)
            listener = stack.enter_context(listening(STATUS_HOST, 0))
        yield listener


def _check_host(host: str) -> None:
    """Raise ``SetupError`` for an address that is not of this host: no door would ever open."""
    try:
        with listening(host, 0):
            pass
    except SetupError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise SetupError(f"ingress_host: cannot listen on {host} ({reason}); name an address of this host") from error


def _raise_limit(connections: int) -> None:
    """Have as many descriptors as the system lets us: each connection takes two."""
    allowed = descriptors.allow()
    if allowed is not None and allowed < connections * 2:
        _log.warning("%d open files are allowed, fewer than %d connections may need (ulimit -Hn)", allowed, connections)


def main() -> None:
    """Be the process that the supervisor starts: settings come from the environment."""
    try:
        run(load_settings())
    except MusterError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(EXIT_SETUP) from None


if __name__ == "__main__":
    main()
