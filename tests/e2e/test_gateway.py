"""A gateway as a person starts it: two processes, one set of limits, and nothing broken by a reload or an end."""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import ssl
import subprocess
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from cryptography import x509

from tests.e2e.gateways import Backend, Gateway, backends, gateway_in, publish, run, until
from tests.e2e.world import MUSTER
from tests.unit.tls.material import Operator

pytestmark = pytest.mark.slow

SECRET, OTHER = "mgw_web", "mgw_other"
ROUTES = """
[[route]]
path = "/a/"
service = "alpha"
strip = true
[[route]]
host = "b.example.com"
service = "beta"
[[route]]
model = "llama-3"
service = "beta"
"""


def key(name: str, secret: str, more: str = "") -> str:
    return f'[[key]]\nname = "{name}"\nsha256 = "{hashlib.sha256(secret.encode()).hexdigest()}"\n{more}\n'


def with_gateway(
    folder: Path,
    test: Callable[[Gateway, Backend, Backend], Coroutine[Any, Any, None]],
    *words: str,
    toml: str = "",
) -> None:
    """Run a test before two services: ``alpha`` by an alias, and ``beta``."""

    async def main() -> None:
        registry = (folder / "registry").as_uri()
        async with backends("alpha", "beta") as (alpha, beta):
            await publish(registry, "0123", alpha.port, alias="alpha")
            await publish(registry, "beta", beta.port)
            async with gateway_in(folder, *words, toml=toml) as gateway:
                await test(gateway, alpha, beta)

    run(main())


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def reads_stream(client: httpx.AsyncClient, path: str) -> int:
    """Read a stream to its proper end; returns how many events came."""
    events = 0
    async with client.stream("GET", path) as response:
        assert response.status_code == 200
        last = ""
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                events, last = events + 1, line
    assert last == "data: [DONE]"
    return events


async def until_true(asked: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    """Ask until it is so, as long as the test may take."""
    while not await asked():  # noqa: ASYNC110 nobody tells
        await asyncio.sleep(0.02)


def test_requests_go_where_path_host_and_model_say(tmp_path: Path) -> None:
    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        async with gateway.client() as client:
            answer = await client.get("/a/x%2Fy?z=1")
            assert answer.json() == {"name": "alpha", "path": "/x%2Fy?z=1", "body": ""}
            assert answer.headers["x-muster-replica"] == "0123-0"
            answer = await client.get("/x", headers={"Host": "b.example.com"})
            assert (answer.json()["name"], answer.json()["path"]) == ("beta", "/x")
            answer = await client.post("/v1/chat/completions", json={"model": "llama-3"})
            assert (answer.json()["name"], answer.json()["body"]) == ("beta", '{"model":"llama-3"}')
            unknown = await client.post("/v1/chat/completions", json={"model": "gpt"})
            assert (unknown.status_code, unknown.json()["reason"]) == (404, "unknown_model")
            assert "'llama-3'" in unknown.json()["error"]["message"]
            assert (await client.get("/nowhere")).json()["reason"] == "no_route"

    with_gateway(tmp_path, test, toml=ROUTES)


def test_without_a_file_the_path_says_which_service(tmp_path: Path) -> None:
    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        async with gateway.client() as client:
            found = await asyncio.gather(*(client.get(f"/{each}/x") for each in ("alpha", "beta") * 10))
            assert [each.json()["name"] for each in found] == ["alpha", "beta"] * 10
            unknown = await client.get("/gamma/x")
            assert (unknown.status_code, unknown.json()["reason"]) == (404, "unknown_service")
            assert "'alpha', 'beta'" in unknown.json()["error"]["message"]

    with_gateway(tmp_path, test)


def test_keys_are_known_limited_together_and_kept_from_replicas(tmp_path: Path) -> None:
    toml = ROUTES + key("web", SECRET, "requests_per_second = 0.01\nburst = 25") + key("old", OTHER, "revoked = true")

    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        async with gateway.client() as client:
            assert (await client.get("/a/")).json()["reason"] == "no_key"
            assert (await client.get("/a/", headers=bearer("mgw_wrong"))).json()["reason"] == "unknown_key"
            revoked = await client.get("/a/", headers=bearer(OTHER))
            assert (revoked.status_code, revoked.json()["reason"]) == (401, "revoked_key")
        found: list[httpx.Response] = []
        for _ in range(40):  # each by a connection of its own, which either process may get
            async with gateway.client(headers=bearer(SECRET)) as client:
                found.append(await client.get("/a/", headers={"X-Muster-Deadline": "30"}))
        assert Counter(each.status_code for each in found) == {200: 25, 429: 15}
        assert 1 <= int(found[-1].headers["retry-after"]) <= 100
        assert alpha.heads
        for head in alpha.heads:
            assert SECRET not in head
            assert "x-muster" not in head.lower()
        said = gateway.said + gateway.access_log.read_text()
        assert SECRET not in said

    with_gateway(tmp_path, test, toml=toml)


def test_a_reload_takes_rules_and_keys_over_and_breaks_no_stream(tmp_path: Path) -> None:
    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        async with gateway.client(limits=httpx.Limits(max_connections=None), headers=bearer(SECRET)) as client:
            streams = [asyncio.ensure_future(reads_stream(client, "/a/stream")) for _ in range(20)]
            await until(lambda: alpha.streams == 20, "20 streams")
            gateway.configure(ROUTES.replace("/a/", "/new/") + "wrong = 3\n" + key("web", SECRET))
            gateway.send(signal.SIGHUP)
            await gateway.says("not reloaded, what was in force stays")
            assert "route[2].wrong: unknown key" in gateway.said
            assert (await client.get("/a/x")).status_code == 200
            gateway.configure('listen = ["127.0.0.1:1"]\n' + ROUTES.replace("/a/", "/new/") + key("other", OTHER))
            gateway.send(signal.SIGHUP)
            await gateway.says("reloaded: /new/")
            assert (await client.get("/new/x")).json()["reason"] == "unknown_key"
            for _ in range(10):
                async with gateway.client(headers=bearer(OTHER)) as other:
                    assert (await other.get("/new/x")).json()["name"] == "alpha"
                    assert (await other.get("/a/x")).json()["reason"] == "no_route"
            assert not any(each.done() for each in streams)
            alpha.ends.set()
            assert min(await asyncio.gather(*streams)) > 2

    with_gateway(tmp_path, test, toml=ROUTES + key("web", SECRET, "concurrency = 30"))


def test_asked_to_stop_it_answers_what_is_under_way_and_nothing_new(tmp_path: Path) -> None:
    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        workers = gateway.workers
        async with gateway.client(limits=httpx.Limits(max_connections=None)) as client:
            streams = [asyncio.ensure_future(reads_stream(client, "/alpha/stream")) for _ in range(10)]
            slow = [asyncio.ensure_future(client.get("/beta/slow")) for _ in range(5)]
            await until(lambda: alpha.streams == 10 and beta.waiting == 5, "10 streams and 5 requests")
            gateway.send(signal.SIGTERM)

            async def is_refused() -> bool:
                async with gateway.client() as late:
                    try:
                        await late.get("/alpha/x")
                    except httpx.TransportError:
                        return True
                return False

            await until_true(is_refused)
            assert not any(each.done() for each in (*streams, *slow))
            async with httpx.AsyncClient(trust_env=False) as probe:
                assert (await probe.get(f"{gateway.status_url}/readyz")).status_code == 503
            beta.goes.set()
            for answer in await asyncio.gather(*slow):
                assert answer.status_code == 200
                assert answer.headers["connection"] == "close"
            alpha.ends.set()
            await asyncio.gather(*streams)
        assert await gateway.ended() == 0
        assert not any(each.is_running() for each in workers)
        assert sum(line["path"] == "/alpha/stream" for line in gateway.lines) == 10

    with_gateway(tmp_path, test)


def test_what_does_not_end_in_time_is_broken_off_and_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    async def broken(gateway: Gateway, alpha: Backend) -> None:
        async with gateway.client() as client:
            streams = [asyncio.ensure_future(reads_stream(client, "/alpha/stream")) for _ in range(3)]
            await until(lambda: alpha.streams == 3, "3 streams")
            gateway.send(signal.SIGTERM)
            if "drain_seconds = 60" in gateway.config.read_text():
                await gateway.says("again to cut it off")
                gateway.send(signal.SIGTERM)
            assert await gateway.ended() == 0
            for each in await asyncio.gather(*streams, return_exceptions=True):
                assert isinstance(each, httpx.TransportError)

    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        await broken(gateway, alpha)

    for at, toml in enumerate(("drain_seconds = 0.2", "drain_seconds = 60")):
        (tmp_path / str(at)).mkdir()
        with_gateway(tmp_path / str(at), test, toml=toml)


def test_a_killed_worker_costs_its_own_requests_and_what_it_had_counted_stays(tmp_path: Path) -> None:
    toml = key("web", SECRET, "concurrency = 6")

    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        clients = [gateway.client(headers=bearer(SECRET)) for _ in range(6)]
        async with contextlib.AsyncExitStack() as stack:
            for each in clients:
                await stack.enter_async_context(each)
            streams = [asyncio.ensure_future(reads_stream(each, "/alpha/stream")) for each in clients]
            await until(lambda: alpha.streams == 6, "6 streams")
            async with gateway.client(headers=bearer(SECRET)) as client:
                assert (await client.get("/beta/x")).json()["reason"] == "concurrency"
            victim = max(gateway.workers, key=lambda each: len(each.net_connections("tcp")))
            before = await gateway.metrics()
            victim.kill()
            await gateway.says("ended with -9; starting it again")

            def have_ended() -> bool:
                done = sum(each.done() for each in streams)
                return done > 0 and alpha.streams == 6 - done

            await until(have_ended, "broken streams have ended at both ends")
            statuses: Counter[int] = Counter()
            for _ in range(20):  # some of them come to the dead one's socket, and wait for its next life
                async with gateway.client(headers=bearer(SECRET)) as client:
                    statuses[(await client.get("/beta/x")).status_code] += 1
            assert statuses == {200: 20}
            broken = sum(each.done() for each in streams)
            alpha.ends.set()
            found = await asyncio.gather(*streams, return_exceptions=True)
            assert sum(isinstance(each, httpx.TransportError) for each in found) == broken
            assert broken < 6 or len(gateway.workers) == 2

            async def has_all() -> bool:
                after = await gateway.metrics()
                assert all(after[name] >= value for name, value in before.items() if name.endswith("_total"))
                return (
                    after.get('muster_gateway_requests_total{service="beta",status="2xx",reason=""}') == 20
                    and after["muster_gateway_process_restarts_total"] == 1
                    and after["muster_gateway_processes"] == 2
                )

            await until_true(has_all)

    with_gateway(tmp_path, test, toml=toml)


def test_a_worker_that_is_stuck_is_started_again(tmp_path: Path) -> None:
    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        stuck, *_ = gateway.workers
        stuck.suspend()
        await gateway.says("it was stuck: it said nothing for 15 s")
        await until(lambda: stuck not in gateway.workers and len(gateway.workers) == 2, "its next life")
        for _ in range(20):
            async with gateway.client() as client:
                assert (await client.get("/alpha/x")).status_code == 200

    with_gateway(tmp_path, test)


def test_workers_end_by_themselves_when_their_parent_is_killed(tmp_path: Path) -> None:
    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        workers = gateway.workers
        async with gateway.client() as client:
            stream = asyncio.ensure_future(reads_stream(client, "/alpha/stream"))
            await until(lambda: alpha.streams == 1, "a stream")
            gateway.process.kill()
            await gateway.ended()
            await until(lambda: sum(each.is_running() for each in workers) == 1, "the end of the idle one")
            alpha.ends.set()
            assert await stream > 0
            await until(lambda: not any(each.is_running() for each in workers), "the end of the other one")

    with_gateway(tmp_path, test)


def test_signals_that_a_whole_group_gets_are_the_parents(tmp_path: Path) -> None:
    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        workers = gateway.workers
        for each in workers:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
                each.send_signal(number)
        for _ in range(10):
            async with gateway.client() as client:
                assert (await client.get("/alpha/x")).status_code == 200
        assert gateway.workers == workers

    with_gateway(tmp_path, test)


def test_the_access_log_has_a_line_for_each_request_and_can_be_rotated(tmp_path: Path) -> None:
    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        async with gateway.client() as client:
            await client.post("/alpha/x?secret=1", content=b"abc", headers={"X-Muster-Tenant": "team"})
            await client.get("/a/%00")
            await until(lambda: len(gateway.lines) == 2, "2 lines")
            first, second = gateway.lines
            assert (first["method"], first["path"], first["service"], first["replica"]) == (
                "POST",
                "/alpha/x",
                "alpha",
                "0123-0",
            )
            assert (first["status"], first["attempts"], first["tenant"], first["bytes_in"]) == (200, 1, "team", 3)
            assert first["seconds"] >= first["queue_seconds"] >= 0
            assert (second["status"], second["reason"]) == (400, "bad_path")
            gateway.access_log.rename(tmp_path / "access.log.1")
            gateway.send(signal.SIGUSR1)
            for _ in range(10):
                async with gateway.client() as other:
                    await other.get("/beta/y")

            def is_in_new() -> bool:
                return gateway.access_log.exists() and bool(gateway.lines)

            await until(is_in_new, "the new file")
        gateway.send(signal.SIGTERM)
        assert await gateway.ended() == 0
        old = [json.loads(each) for each in (tmp_path / "access.log.1").read_text().splitlines()]
        assert len(old) + len(gateway.lines) == 12

    with_gateway(tmp_path, test)


def test_the_openai_sdk_needs_only_a_base_url_and_a_key(tmp_path: Path) -> None:
    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        http_client: Any = httpx.AsyncClient(trust_env=False)
        async with openai.AsyncOpenAI(
            http_client=http_client, base_url=f"{gateway.url}/v1", api_key=SECRET, max_retries=0
        ) as client:
            message: Any = {"role": "user", "content": "who are you?"}
            answer = await client.chat.completions.create(
                model="llama-3", messages=[message], extra_headers={"X-Muster-Deadline": "20"}
            )
            assert answer.choices[0].message.content == "I am beta"
            assert [each.id async for each in client.models.list()] == ["llama-3"]
            assert (await client.models.retrieve("llama-3")).id == "llama-3"
            with pytest.raises(openai.NotFoundError) as unknown:
                await client.chat.completions.create(model="gpt", messages=[message])
            assert "no model is called 'gpt' here; known: 'llama-3'" in str(unknown.value)
            assert unknown.value.code == "unknown_model"
        async with openai.AsyncOpenAI(
            http_client=httpx.AsyncClient(trust_env=False),  # type: ignore[arg-type]  # as good to it as its own
            base_url=f"{gateway.url}/v1",
            api_key="mgw_wrong",
            max_retries=0,
        ) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.chat.completions.create(model="llama-3", messages=[message])
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()

    with_gateway(tmp_path, test, toml=ROUTES + key("web", SECRET))


def test_a_certificate_is_replaced_under_streams_and_by_a_reload(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    operator.renew()
    trust = ssl.create_default_context(cafile=operator.ca)

    async def serial(gateway: Gateway) -> int:
        host, port = gateway.url.removeprefix("https://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=trust)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return x509.load_der_x509_certificate(shown).serial_number

    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        assert gateway.url.startswith("https://")
        async with gateway.client(verify=trust) as client:
            stream = asyncio.ensure_future(reads_stream(client, "/alpha/stream"))
            await until(lambda: alpha.streams == 1, "a stream")
            expected = operator.renew().serial_number
            gateway.send(signal.SIGHUP)

            async def is_shown() -> bool:
                return {await serial(gateway) for _ in range(8)} == {expected}

            await until_true(is_shown)
            operator.key.write_text("no key")
            gateway.send(signal.SIGHUP)
            await gateway.says("holds no private key in PEM form")
            assert await serial(gateway) == expected
            assert not stream.done()
            alpha.ends.set()
            assert await stream > 0
            for each in gateway.workers:  # their next lives have no files that they could read
                each.kill()
            assert {await serial(gateway) for _ in range(8)} == {expected}
            assert "showing what was shown before" in gateway.said

    words = ("--tls-certificate", str(operator.certificate), "--tls-key", str(operator.key))
    with_gateway(tmp_path, test, *words)


def test_lines_that_were_lost_stay_counted_when_the_log_is_another_one(tmp_path: Path) -> None:
    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        name = "muster_gateway_access_log_lost_total"

        async def lost() -> bool:
            return (await gateway.metrics())[name] == 5

        async with gateway.client() as client:
            for _ in range(5):
                await client.get("/alpha/x")
        await until_true(lost)
        gateway.configure(f'access_log = "{gateway.access_log}"')
        gateway.send(signal.SIGHUP)
        await gateway.says("reloaded")
        async with gateway.client() as client:
            await client.get("/alpha/y")
        await until(lambda: gateway.lines, "a line")

        async def is_told_since() -> bool:
            return (await gateway.metrics())[
                'muster_gateway_requests_total{service="alpha",status="2xx",reason=""}'
            ] == 6

        await until_true(is_told_since)
        assert await lost()

    with_gateway(tmp_path, test, "--processes", "1", toml='access_log = "/dev/full"')


def test_metrics_are_sums_of_all_processes(tmp_path: Path) -> None:
    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        for _ in range(30):
            async with gateway.client() as client:
                await client.get("/alpha/x")
        name = 'muster_gateway_requests_total{service="alpha",status="2xx",reason=""}'

        async def is_told() -> bool:
            found = await gateway.metrics()
            return found.get(name) == 30 and found.get('muster_client_granted_total{service="admin/alpha/6006"}') == 30

        await until_true(is_told)
        async with httpx.AsyncClient(base_url=gateway.status_url, trust_env=False) as client:

            async def is_shown() -> bool:  # what a process tells of its replicas it tells at another moment
                (service,) = (await client.get("/services")).json()["services"]
                assert service["service"] == "admin/alpha/6006"
                return bool(service["replicas"][0]["served"] == 30)

            await until_true(is_shown)
            assert (await client.get("/healthz")).text == "ok\n"
            assert (await client.get("/readyz")).text.startswith("2 of 2 processes")

    with_gateway(tmp_path, test)


def test_it_does_without_standard_output_and_with_a_long_name_of_the_folder_for_temporary_files(
    tmp_path: Path,
) -> None:
    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        folder = tmp_path / ("t" * 100)
        folder.mkdir()
        words = ["--registry", gateway.registry, "--listen", "127.0.0.1:0", "--status", "127.0.0.1:0"]
        said = tmp_path / "said"
        with said.open("wb") as output:
            process = subprocess.Popen(  # noqa: ASYNC220 it takes a millisecond
                ["sh", "-c", 'exec "$@" >&-', "sh", MUSTER, "gateway", *words, "--processes", "2"],
                env=os.environ | {"TMPDIR": str(folder)},
                stderr=output,
            )
        try:
            await until(lambda: "ready at " in said.read_text() or process.poll() is not None, "a gateway")
            found = re.search(r"ready at (\S+) ", said.read_text())
            assert found is not None, said.read_text()
            for _ in range(10):
                async with httpx.AsyncClient(base_url=found[1], trust_env=False) as client:
                    assert (await client.get("/alpha/x")).json()["name"] == "alpha"
            process.send_signal(signal.SIGTERM)
            await until(lambda: process.poll() is not None, "its end")
        finally:
            process.kill()
        assert process.returncode == 0
        assert "ssertion" not in said.read_text()
        assert "ended with" not in said.read_text()

    with_gateway(tmp_path, test)


def test_it_says_in_one_line_why_it_cannot_start(tmp_path: Path) -> None:
    async def test(gateway: Gateway, alpha: Backend, beta: Backend) -> None:
        def refused(*words: str) -> str:
            done = subprocess.run(
                [MUSTER, "gateway", "--registry", gateway.registry, "--access-log", "off", "--status", "off", *words],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert done.returncode == 1, done
            (line,) = [each for each in done.stderr.splitlines() if each.startswith("error: ")]
            return line

        port = gateway.url.rpartition(":")[2]
        assert "something else does already" in await asyncio.to_thread(refused, "--listen", f"127.0.0.1:{port}")
        assert "is not a list of addresses" in await asyncio.to_thread(refused, "--listen", "nowhere:80")
        assert "there is no such file" in await asyncio.to_thread(
            refused, "--listen", "127.0.0.1:0", "--tls-certificate", "/nope", "--tls-key", "/nope"
        )
        assert "access_log: /proc/nope/log: cannot be opened" in await asyncio.to_thread(
            refused, "--listen", "127.0.0.1:0", "--access-log", "/proc/nope/log"
        )

    with_gateway(tmp_path, test)
