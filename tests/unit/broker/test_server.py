"""The broker's connections, by real sockets: who is let in, what ends a connection, and that it ends no other."""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.balancer.ask import NOTHING_SAID
from muster.broker import messages
from muster.broker import server as server_module
from muster.broker.address import read_address
from muster.broker.connection import MOST_QUESTIONS
from muster.broker.frames import frame
from muster.broker.messages import VERSION, Hello
from muster.broker.server import Broker
from muster.errors import FeedError, SetupError
from muster.model.endpoint import ServiceKey
from muster.tls.certificate import Certificates
from tests.unit.broker.client import Client
from tests.unit.broker.ground import FOREIGN, KEY, NAME, TOKEN, Ground, ground, make_set, until
from tests.unit.tls.material import trusting

Scenario = Callable[[Ground], Coroutine[Any, Any, None]]


def run(scenario: Scenario, **options: Any) -> None:
    async def main() -> None:
        async with ground(**options) as here:
            await scenario(here)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind: {left}"

    asyncio.run(main())


class TestAsking:
    def test_an_ask_is_granted_started_and_reported(self) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as client:
                number = client.ask()
                granted = await client.get("grant")
                assert granted["id"] == number
                assert granted["endpoint"]["id"] in {"a", "b"}
                client.say(messages.start(number))
                client.report(number)
                await until(lambda: here.statistics().answered == 1, "the answer is counted")
                assert here.statistics().in_flight == 0

        run(scenario)

    def test_a_slot_that_comes_free_goes_to_another_connection(self) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as first, here.client() as second:
                held = await first.lease()
                number = second.ask()
                await until(lambda: here.statistics().waiting == 1, "the second waits")
                first.report(held)
                assert (await second.get("grant"))["id"] == number

        run(scenario, endpoints={KEY: make_set("a")})

    def test_a_grant_that_is_not_started_returns_by_the_timer_alone(self) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as client:
                number = client.ask()
                await client.get("grant")
                for _ in range(5):
                    client.beat()
                    await asyncio.sleep(0.5)
                assert (await client.find("returned"))["id"] == number
                assert here.statistics().in_flight == 0

        run(scenario)

    def test_a_deadline_passes_by_the_timer_alone(self) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as client:
                await client.lease()
                number = client.ask(within=0.2)
                refused = await client.get("refuse")
                assert (refused["id"], refused["reason"]) == (number, "timeout")

        run(scenario, endpoints={KEY: make_set("a")})

    def test_what_one_turn_says_is_one_write(self) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as client:
                writes = []
                (connection,) = here.broker.connections
                transport = connection._transport
                assert transport is not None
                write = transport.write

                def note(data: Any) -> None:
                    writes.append(data)
                    write(data)

                transport.write = note  # type: ignore[method-assign]
                client.say(*(messages.ask(messages.Wanted(number, NOTHING_SAID, 5.0), 0.0) for number in range(1, 9)))
                for _ in range(8):
                    await client.get("grant")
                assert len(writes) == 1

        run(scenario, endpoints={KEY: make_set("a", concurrency=8)})


class TestWhoIsLetIn:
    def test_an_unknown_token_is_told_so(self) -> None:
        async def scenario(here: Ground) -> None:
            async with await here.connect() as client:
                said = await client.hello(KEY, "wrong")
                assert (said["type"], said["reason"]) == ("bye", "unauthenticated")
                assert "muster tokens create" in said["message"]
                assert await client.next() is None

        run(scenario)

    def test_another_accounts_service_looks_like_one_that_there_is_not(self) -> None:
        async def scenario(here: Ground) -> None:
            said = []
            for key in (KEY, ServiceKey("admin", "nonsense")):
                async with await here.connect() as client:
                    said.append(await client.hello(key, FOREIGN))
            for key in (ServiceKey("bob", "nonsense"), ServiceKey("bob", KEY.service)):
                async with await here.connect() as client:
                    said.append(await client.hello(key, FOREIGN))
            assert [each["reason"] for each in said] == ["unknown_service"] * 4
            assert said[0]["message"].replace(str(KEY), "") == said[2]["message"].replace("bob/nonsense/6006", "")
            assert "registry memory://test" in said[0]["message"], "where was looked"

        run(scenario)

    def test_a_newer_client_is_told_what_to_upgrade(self) -> None:
        async def scenario(here: Ground) -> None:
            async with await here.connect() as client:
                client.say(messages.hello(Hello(KEY, TOKEN)) | {"version": VERSION + 1})
                said = await client.get("bye")
                assert said["reason"] == "newer_version"
                assert "upgrade the broker" in said["message"]

        run(scenario)

    def test_who_does_not_say_hello_is_sent_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server_module, "HELLO_SECONDS", 0.2)

        async def scenario(here: Ground) -> None:
            async with await here.connect() as client:
                assert await client.farewell() == "silent"
            await until(lambda: not here.broker.connections, "nobody is left")

        run(scenario)

    def test_what_is_asked_before_the_welcome_is_answered_after_it(self) -> None:
        async def scenario(here: Ground) -> None:
            here.tokens.wait = asyncio.Event()
            async with await here.connect() as client:
                client.say(messages.hello(Hello(KEY, TOKEN)))
                number = client.ask()
                await asyncio.sleep(0.05)
                client.ask()
                here.tokens.wait.set()
                await client.get("welcome")
                assert (await client.get("grant"))["id"] == number
                await client.get("grant")

        run(scenario)

    def test_who_talks_on_without_being_known_is_cut_off(self) -> None:
        async def scenario(here: Ground) -> None:
            here.tokens.wait = asyncio.Event()
            async with await here.connect() as client:
                client.say(messages.hello(Hello(KEY, TOKEN)))
                for _ in range(2000):
                    client.ask()
                assert await client.farewell() == "too_large"

        run(scenario)

    def test_tokens_that_nobody_can_check_are_no_wrong_tokens(self) -> None:
        async def scenario(here: Ground) -> None:
            here.tokens.trouble = FeedError("the API is down")
            async with await here.connect() as client:
                said = await client.hello(KEY, TOKEN)
                assert said["reason"] == "unavailable"
                assert "the API" not in said["message"]

        run(scenario)

    def test_a_revoked_token_ends_its_connections_and_frees_their_slots(self) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as client:
                await client.lease()
                here.tokens.trouble = FeedError("the API is down")
                await asyncio.sleep(0.15)
                assert len(here.broker.connections) == 1, "nobody knows, so it stays"
                here.tokens.trouble = None
                del here.tokens.accounts[TOKEN]
                assert await client.farewell() == "unauthenticated"
                assert here.statistics().in_flight == 0

        run(scenario, recheck_seconds=0.05)

    def test_more_connections_than_allowed_are_refused_and_the_others_go_on(self) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as first, here.client(), await here.connect() as third:
                assert await third.farewell() == "too_many"
                await first.lease()
            await until(lambda: not here.broker.connections, "all have left")
            async with here.client() as again:
                await again.lease()

        run(scenario, most_connections=2)

    def test_strangers_do_not_keep_out_those_who_are_known(self) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as known:
                strangers = [await here.connect() for _ in range(3)]
                assert await strangers[-1].farewell() == "too_many"
                await known.lease()
                for each in strangers:
                    await each.close()
                await until(lambda: len(here.broker.connections) == 1, "the strangers have left")
                async with here.client() as another:
                    await another.lease()

        run(scenario, most_strangers=2)


class TestEndings:
    def test_a_client_that_hangs_up_leaks_nothing(self) -> None:
        async def scenario(here: Ground) -> None:
            client = await here.connect()
            await client.hello(KEY, TOKEN)
            await client.lease()
            await client.lease()
            client.ask()
            await until(lambda: here.statistics().waiting == 1, "one waits")
            client.abort()
            await until(lambda: (here.statistics().in_flight, here.statistics().waiting) == (0, 0), "all is free")

        run(scenario)

    def test_a_half_open_connection_ends_within_three_heartbeats_and_a_sweep(self) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as silent, here.client() as living:
                await silent.lease()
                await silent.lease()
                number = living.ask(within=30)
                await until(lambda: here.statistics().waiting == 1, "the other waits")
                began = asyncio.get_running_loop().time()
                while here.statistics().waiting:
                    living.beat()
                    await asyncio.sleep(0.1)
                took = asyncio.get_running_loop().time() - began
                assert 2.5 < took < 4.0
                assert (await living.find("grant"))["id"] == number
                assert len(here.broker.connections) == 1

        run(scenario)

    def test_a_client_that_does_not_read_is_cut_off_and_holds_up_nobody(self) -> None:
        async def scenario(here: Ground) -> None:
            slow = await here.connect()
            await slow.hello(KEY, TOKEN)
            cast("asyncio.Transport", slow.writer.transport).pause_reading()
            (connection,) = here.broker.connections

            async def pour() -> None:
                while True:
                    slow.say(*(messages.beat([]) for _ in range(1000)))
                    await slow.writer.drain()

            pouring = asyncio.create_task(pour())
            async with here.client() as quick:
                await quick.lease()
            await until(lambda: connection not in here.broker.connections, "the slow one is cut off", 30)
            pouring.cancel()
            await asyncio.gather(pouring, return_exceptions=True)
            slow.abort()

        run(scenario)

    def test_a_failure_inside_ends_one_connection_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as unlucky, here.client() as other:
                desk = here.services._known(KEY).desk  # type: ignore[union-attr]
                take = desk.take

                def broken(visitor: Any, message: Any) -> None:
                    if message["type"] == "cancel":
                        raise ZeroDivisionError
                    take(visitor, message)

                monkeypatch.setattr(desk, "take", broken)
                await unlucky.lease()
                unlucky.say(messages.cancel(99))
                assert await unlucky.farewell() == "failed"
                assert here.statistics().in_flight == 0
                await other.lease()

        run(scenario)

    @pytest.mark.parametrize("part", ["join", "take"])
    def test_a_failure_over_what_was_said_before_the_welcome_is_told_at_once(
        self, part: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as other:
                desk = here.services._known(KEY).desk  # type: ignore[union-attr]
                monkeypatch.setattr(desk, part, lambda visitor, message: 1 / 0)
                async with await here.connect() as unlucky:
                    unlucky.say(messages.hello(Hello(KEY, TOKEN)), messages.cancel(99))
                    assert await unlucky.farewell() == "failed"
                    assert desk.visitors == 1
                monkeypatch.undo()
                await other.lease()

        run(scenario)

    def test_a_failure_over_a_token_that_is_looked_at_again_ends_nothing(self) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as client:
                here.tokens.trouble = ZeroDivisionError()
                await asyncio.sleep(0.15)
                here.tokens.trouble = None
                await client.lease()
                del here.tokens.accounts[TOKEN]
                assert await client.farewell() == "unauthenticated"

        run(scenario, recheck_seconds=0.05)

    def test_stopping_says_goodbye_to_everybody(self) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as one, await here.connect() as stranger:
                await until(lambda: len(here.broker.connections) == 2, "both are there")
                await here.stop()
                assert await one.farewell() == "stopping"
                assert await stranger.farewell() == "stopping"
                with pytest.raises(ConnectionRefusedError):
                    await here.connect()

        run(scenario)


class TestFuzz:
    @settings(max_examples=60)
    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=200),
                st.sampled_from(
                    [
                        b"\xff\xff\xff\xff",
                        b"\x00\x00\x00\x02[]",
                        b"\x00\x00\x00\x00",
                        b"\x00\x01\x00\x01" + b"[" * 65537,
                    ]
                ),
                st.integers(0, 2**32 - 1).map(lambda length: struct.pack(">I", length) + b"{}"),
                st.recursive(
                    st.none()
                    | st.booleans()
                    | st.integers()
                    | st.floats(allow_nan=False, allow_infinity=False)
                    | st.text(max_size=9),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
                    max_leaves=6,
                ).flatmap(
                    lambda value: st.sampled_from(
                        ["ask", "start", "report", "cancel", "heartbeat", "heard", "hold", "hello", "evict", "?"]
                    ).flatmap(
                        lambda kind: st.sampled_from(
                            [
                                "id",
                                "held",
                                "leases",
                                "within",
                                "outcome",
                                "tried",
                                "features",
                                "all",
                                "in_flight",
                                "costs",
                            ]
                        ).map(lambda field: frame({"type": kind, "id": 7, "within": 1, field: value}))
                    )
                ),
            ),
            min_size=1,
            max_size=5,
        ),
        st.booleans(),
    )
    def test_whatever_one_client_sends_others_are_served_and_no_lease_is_left(
        self, pieces: list[bytes], is_known: bool
    ) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as other:
                fuzzing = await here.connect()
                if is_known:
                    await fuzzing.hello(KEY, TOKEN)
                    fuzzing.ask()
                for piece in pieces:
                    fuzzing.say_bytes(piece)
                await asyncio.sleep(0)
                held = await other.lease()
                await fuzzing.close()
                await until(lambda: len(here.broker.connections) == 1, "it has left")
                other.report(held)
                other.beat()
                await other.find("heartbeat")
                assert (here.statistics().in_flight, here.statistics().waiting) == (0, 0)

        run(scenario, endpoints={KEY: make_set("a", "b", concurrency=4)})

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "too_large"),
            (b"\x00\x00\x00\x02{}", "not_understood"),
            (b"\x00\x00\x00\x04null", "not_understood"),
            (b"\x00\x00\x00\x02\xff\xff", "not_understood"),
            (frame({"type": "ask", "id": 1}), "not_understood"),
            (frame({"type": "hello", "version": "1"}), "not_understood"),
            (
                frame({"type": "hello", "version": 1, "account": "admin", "service": "x", "port": 1, "purpose": "?"}),
                "not_understood",
            ),
        ],
    )
    def test_what_is_no_hello_is_told_what_is_wrong(self, data: bytes, reason: str) -> None:
        async def scenario(here: Ground) -> None:
            async with await here.connect() as client:
                client.say_bytes(data)
                assert await client.farewell() == reason

        run(scenario)


class TestInspecting:
    def test_a_queue_is_shown_and_cancelled(self) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as client, here.client(purpose="inspect") as person:
                await client.lease()
                waiting = client.ask()
                await until(lambda: here.statistics().waiting == 1, "one waits")
                person.say({"type": "show"})
                shown = await person.get("queue")
                assert shown["statistics"]["waiting"] == 1
                assert [each["client"] for each in shown["asks"]] == ["test"]
                person.say({"type": "evict", "all": True})
                assert (await person.get("evicted"))["count"] == 1
                refused = await client.get("refuse")
                assert (refused["id"], refused["reason"]) == (waiting, "cancelled")

        run(scenario, endpoints={KEY: make_set("a")})

    def test_who_asks_for_slots_asks_nothing_else(self) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client() as client:
                client.say({"type": "show"})
                assert await client.farewell() == "not_understood"

        run(scenario)

    def test_who_asks_without_end_holds_up_nobody(self) -> None:
        """One answer takes milliseconds where a thousand wait, and a read may bring ten thousand questions."""

        async def scenario(here: Ground) -> None:
            async with here.client() as client, here.client(purpose="inspect") as person:
                person.say(*[{"type": "evict", "tenant": "x"}] * 5000)
                answers = 0
                while (found := await person.next()) is not None and found["type"] == "evicted":
                    answers += 1
                assert found is not None
                assert (found["type"], found["reason"]) == ("bye", "not_understood")
                assert answers <= MOST_QUESTIONS
                await client.lease()

        run(scenario)

    def test_who_came_to_inspect_takes_no_slot(self) -> None:
        async def scenario(here: Ground) -> None:
            async with here.client(purpose="inspect") as person:
                person.ask()
                assert await person.farewell() == "not_understood"
                assert here.statistics().granted == 0

        run(scenario)


class TestListening:
    def test_over_tls_with_the_installations_own_authority(self, tmp_path: Path) -> None:
        certificates = Certificates.open(tmp_path, names=["localhost"], certificate=None, key=None, leaf="broker")

        async def scenario(here: Ground) -> None:
            async with here.client() as client:
                await client.lease()
            async with await Client.connect(here.address._replace(scheme="tcp")) as plain:
                plain.say(messages.hello(Hello(KEY, TOKEN)))
                assert await plain.next() is None, "the token was sent in the clear, and nobody answers that"

        run(
            scenario,
            listen=read_address("tls://127.0.0.1:0"),
            tls=certificates.context,
            trust=trusting(tmp_path / "tls" / "ca.pem"),
        )

    def test_over_a_unix_socket_that_only_its_owner_reaches(self, tmp_path: Path) -> None:
        path = tmp_path / "broker.sock"

        async def scenario(here: Ground) -> None:
            assert path.stat().st_mode & 0o777 == 0o600
            async with here.client(NAME) as client:
                await client.lease()
            with pytest.raises(SetupError, match="another process listens"):
                await here.broker.listen(here.address)

        left = socket.socket(socket.AF_UNIX)
        left.bind(str(path))
        left.close()
        run(scenario, listen=read_address(f"unix://{path}"))
        assert not path.exists()

    def test_a_port_in_use_is_one_clear_line(self) -> None:
        async def scenario(here: Ground) -> None:
            second = Broker(here.services, here.tokens)
            with pytest.raises(SetupError, match=f"cannot listen at {here.address.url}"):
                await second.listen(here.address)

        run(scenario)

    def test_a_certificate_is_needed_for_tls(self) -> None:
        async def scenario(here: Ground) -> None:
            with pytest.raises(SetupError, match="needs a certificate"):
                await here.broker.listen(read_address("tls://127.0.0.1:0"))

        run(scenario)
