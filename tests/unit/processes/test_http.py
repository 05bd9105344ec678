"""The server around an application: what it adds to uvicorn."""

import asyncio
import logging
import socket

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.responses import JSONResponse
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from muster.processes.http import HttpServer, listening


def test_connections_tell_asyncio_that_they_are_tcp_so_that_it_switches_nagles_algorithm_off() -> None:
    with listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.proto == socket.IPPROTO_TCP


def test_a_websocket_that_is_refused_is_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()

    @app.websocket("/")
    async def refuse(socket: WebSocket) -> None:
        await socket.send_denial_response(JSONResponse({"error": "no"}, 409))

    async def scenario() -> None:
        with listening("127.0.0.1", 0) as listener:
            url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
            serving = asyncio.create_task(HttpServer(listener).run(app))
            with pytest.raises(InvalidStatus) as refused:
                await connect(url, proxy=None).__aenter__()
            assert refused.value.response.status_code == 409
            assert refused.value.response.body == b'{"error":"no"}'
            serving.cancel()
            await asyncio.wait([serving])

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert caplog.records == []
