"""Clients that know nothing of Muster, told to trust the authority as docs/tls.md says."""

import asyncio
import os
import ssl
import sys
import urllib.request
from pathlib import Path

import pytest
import requests

from muster.tls.certificate import Certificates
from tests.unit.balancer.servers import ok, serving


async def answered_by(home: Path, *command: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a command against one HTTPS server; ``URL`` and ``CA`` in it are replaced."""
    certificates = Certificates.open(home, names=(), certificate=None, key=None)
    ca = str(home / "tls" / "ca.pem")
    async with serving(certificates.context, a=ok) as servers:
        words = [word.replace("URL", servers["a"].endpoint.url).replace("CA", ca) for word in command]
        process = await asyncio.create_subprocess_exec(
            *words,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **{name: value.replace("CA", ca) for name, value in (environ or {}).items()}},
        )
        said, _ = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode is not None
        return process.returncode, said.decode()


def test_curl(tmp_path: Path) -> None:
    assert asyncio.run(answered_by(tmp_path, "curl", "-sS", "--cacert", "CA", "URL/")) == (0, "a")
    code, said = asyncio.run(answered_by(tmp_path, "curl", "-sS", "URL/"))
    assert code == 60, said


def test_python_told_by_the_environment(tmp_path: Path) -> None:
    ask = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode(), end='')"
    command = (sys.executable, "-c", ask, "URL/")
    assert asyncio.run(answered_by(tmp_path, *command, environ={"SSL_CERT_FILE": "CA"})) == (0, "a")
    code, said = asyncio.run(answered_by(tmp_path, *command))
    assert code != 0
    assert "CERTIFICATE_VERIFY_FAILED" in said


def test_requests_and_urllib(tmp_path: Path) -> None:
    async def scenario() -> None:
        certificates = Certificates.open(tmp_path, names=(), certificate=None, key=None)
        ca = str(tmp_path / "tls" / "ca.pem")
        async with serving(certificates.context, a=ok) as servers:
            url = servers["a"].endpoint.url + "/"

            def ask() -> None:
                with requests.get(url, verify=ca, timeout=10) as answer:
                    assert answer.text == "a"
                with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
                    requests.get(url, timeout=10)
                context = ssl.create_default_context(cafile=ca)
                with urllib.request.urlopen(url, context=context, timeout=10) as answer:
                    assert answer.read() == b"a"

            await asyncio.to_thread(ask)

    asyncio.run(scenario())
