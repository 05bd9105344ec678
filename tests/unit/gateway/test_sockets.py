"""Where a gateway listens: sockets that share an address, and nobody else there."""

import contextlib
import socket

import pytest

from muster.errors import SetupError
from muster.gateway.config import Bind
from muster.processes.gateway_sockets import listen, listen_alone


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_all_workers_sockets_have_one_port_and_share_its_clients(host: str) -> None:
    ((place,), sockets) = listen([Bind((host, 0))], 3)
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(own[0]) for own in sockets]
        assert {each.getsockname()[1] for each in listeners} == {place[1]}
        accepted = [0, 0, 0]
        for _ in range(60):
            stack.enter_context(socket.create_connection(place))
        for at, listener in enumerate(listeners):
            with contextlib.suppress(BlockingIOError):
                while True:
                    stack.enter_context(listener.accept()[0])
                    accepted[at] += 1
        assert sum(accepted) == 60
        assert min(accepted) > 0


def test_an_address_that_somebody_shares_is_not_joined() -> None:
    ((place,), sockets) = listen([Bind(("127.0.0.1", 0))], 1)
    with sockets[0][0]:
        with pytest.raises(SetupError, match=rf"^--listen: cannot listen at {place}: something else does already"):
            listen([place], 2)
        with pytest.raises(SetupError, match=r"^--status: cannot listen at"):
            listen_alone(place, "--status")


def test_where_one_address_cannot_be_had_no_other_is_kept() -> None:
    with listen_alone(Bind(("127.0.0.1", 0)), "--status") as taken:
        port = taken.getsockname()[1]
        with listen_alone(Bind(("127.0.0.1", 0)), "--status") as free:
            other = Bind(("127.0.0.1", free.getsockname()[1]))
        with pytest.raises(SetupError):
            listen([other, Bind(("127.0.0.1", port))], 2)
        listen_alone(other, "--status").close()


def test_an_address_of_another_host_is_refused_in_one_line() -> None:
    with pytest.raises(SetupError, match=r"^--listen: cannot listen at 192\.0\.2\.1:80: Cannot assign requested"):
        listen([Bind(("192.0.2.1", 80))], 1)
