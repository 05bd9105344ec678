"""The local engine keeps the engine's promises, with real processes."""

import shlex
import sys
from pathlib import Path

import pytest

from muster.engine.local import LocalEngine
from muster.testing.conformance.access import AccessConformance
from muster.testing.conformance.engine import EngineConformance, OpenEngine
from muster.testing.conformance.files import FilesConformance

_SERVE = r"""
import socket
with socket.create_server(("127.0.0.1", {port})) as listener:
    while True:
        with listener.accept()[0] as connection:
            connection.sendall(b"hello\n")
"""


@pytest.mark.slow
class TestLocalEngine(AccessConformance, FilesConformance, EngineConformance):
    def serve(self, port: int) -> str:
        program = _SERVE.format(port=f"int(__import__('os').environ['MUSTER_PORT_{port}'])")
        return f"exec {sys.executable} -c {shlex.quote(program)}"

    @pytest.fixture
    def open_engine(self, tmp_path: Path) -> OpenEngine:
        return lambda name: LocalEngine(tmp_path / "roots" / name)
