"""The parts of `make bench-gateway` that measure nothing: files for peers, who asks, and what the figures say."""

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.gateway import idle, peers, requests
from benchmarks.gateway.client import Asker, pace, saturate
from benchmarks.gateway.requests import Runs, Saw, added
from benchmarks.gateway.stand import BROKERED, DIRECT, NGINX, ONE, standing
from benchmarks.ingress.backend import BODY

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


def saw(p50: float = 0.001, *, cpu: float = 1e-4, broker_cpu: float = 0.0, per_second: float = 1_000.0) -> Saw:
    return Saw(p50, p50 * 2, 0.0, per_second, cpu, broker_cpu)


class Answers:
    """A server that says one thing to everybody, in pieces of ``size``."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.size = len(ANSWER)
        self.says = ANSWER
        self.heads = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):  # who is refused hangs up at once
            while connection.recv(4096):
                self.heads += 1
                for at in range(0, len(self.says), self.size):
                    connection.sendall(self.says[at : at + self.size])

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for each in self._threads:
            each.join(10)


@pytest.fixture
def server() -> Iterator[Answers]:
    server = Answers()
    yield server
    server.close()


@pytest.fixture
def asker(server: Answers) -> Iterator[Asker]:
    asker = Asker(server.port, 2)
    every = list(asker.idle)
    yield asker
    for each in every:
        each.close()


class TestAsker:
    def test_full_speed_counts_what_was_answered_in_time_and_leaves_nothing_open(
        self, server: Answers, asker: Asker
    ) -> None:
        seen = saturate(asker, 0.05)
        assert not asker.is_busy
        assert 0 < len(seen.samples) <= server.heads
        assert seen.seconds >= 0.05

    def test_at_a_rate_every_request_is_sent_and_timed(self, server: Answers, asker: Asker) -> None:
        server.size = 7
        seen = pace(asker, 0.1, 500.0, random.Random(3))
        rng, due, meant = random.Random(3), 0.0, 0
        while (due := due + rng.expovariate(500.0)) < 0.1:
            meant += 1
        assert len(seen.samples) == len(seen.late) == server.heads == meant
        assert min(seen.samples) > 0
        assert len(asker.idle) == 2

    def test_whoever_is_refused_does_not_count_it_as_fast(self, server: Answers, asker: Asker) -> None:
        server.says = ANSWER.replace(b"200 OK", b"503 No")
        with pytest.raises(RuntimeError, match="503"):
            saturate(asker, 0.05)


class TestFigures:
    def test_what_is_added_is_above_the_direct_way_of_the_same_round(self) -> None:
        runs = {DIRECT: Runs(paced=[saw(1), saw(10), saw(100)]), ONE: Runs(paced=[saw(2), saw(11.5), saw(103)])}
        assert added(runs, ONE, "p50") == 1.5

    def test_a_brokers_time_is_part_of_the_price(self) -> None:
        runs = Runs(full=[saw(cpu=1e-4, broker_cpu=1e-4, per_second=4_000)])
        assert runs.price() == pytest.approx(2e-4)
        assert runs.busy() == pytest.approx(0.8)

    def test_every_figure_to_reach_is_judged(self) -> None:
        def verdicts(cpu: float, more: float) -> list[str]:
            runs = {
                DIRECT: Runs([saw(0.0001)], [saw()]),
                ONE: Runs([saw(0.0001 + more)], [saw(cpu=cpu)]),
                BROKERED: Runs([saw(0.0001 + more)], [saw(cpu=cpu)]),
            }
            return [str(each) for each in requests.targets(runs).columns[-1].cells]

        assert verdicts(1 / 3_100, 0.0009) == ["reached"] * 4
        assert verdicts(1 / 2_900, 0.0011) == ["NOT reached"] * 4


class TestConfigs:
    def test_peers_keep_connections_on_both_sides_and_hold_no_event_back(self) -> None:
        nginx, haproxy = peers.nginx_config(Path("/x"), 1, 2), peers.haproxy_config(1, 2)
        assert "server 127.0.0.1:1;\n        keepalive 64;" in nginx
        assert "listen 127.0.0.1:2 " in nginx
        assert "proxy_buffering off;" in nginx
        assert "bind 127.0.0.1:2 " in haproxy
        assert "http-reuse always" in haproxy
        assert "option http-no-delay" in haproxy


@pytest.mark.slow
def test_a_gateway_stands_beside_its_peers_and_carries_requests_and_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "STREAMS", 5)
    with standing(tmp_path / "stand", (DIRECT, NGINX, ONE, BROKERED)) as subjects:
        runs = requests.measure(tmp_path, subjects, 1, 0.3)
        streams = idle.measure([each for each in subjects if each.name != BROKERED])
    assert {DIRECT, ONE, BROKERED} <= set(runs)
    assert all(each.per_second() > 0 and len(each.paced) == 1 for each in runs.values())
    assert runs[BROKERED].full[0].broker_cpu > 0
    assert streams[ONE].count == 5
