"""What is written over an exec's socket is read as it was meant, and nothing else is read at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import InvalidSpec
from muster.model import exec_wire
from muster.model.exec_wire import LARGEST_SIZE, Channel


def test_the_numbers_are_those_of_kubernetes_and_one_of_ours() -> None:
    assert {channel.name: channel.value for channel in Channel} == {
        "STDIN": 0,
        "STDOUT": 1,
        "STDERR": 2,
        "END": 3,
        "RESIZE": 4,
        "CREDIT": 5,
        "CLOSE": 255,
    }
    assert exec_wire.message(Channel.STDOUT, b"data") == b"\x01data"
    assert exec_wire.close_of_input() == b"\xff\x00"
    assert exec_wire.credit(258) == b"\x05\x00\x00\x01\x02"
    assert exec_wire.end(7) == b'\x03{"exit_code": 7}'
    assert exec_wire.resize(80, 24) == b'\x04{"columns": 80, "rows": 24}'


@given(st.sampled_from(Channel), st.binary())
def test_a_message_is_its_channel_and_its_payload(channel: Channel, payload: bytes) -> None:
    assert exec_wire.parse(exec_wire.message(channel, payload)) == (channel, payload)


@given(st.integers(0, 2**32 - 1), st.integers(1, LARGEST_SIZE), st.integers(1, LARGEST_SIZE), st.text())
def test_what_is_written_is_read(count: int, columns: int, rows: int, text: str) -> None:
    assert exec_wire.credited(exec_wire.parse(exec_wire.credit(count))[1]) == count
    assert exec_wire.size(exec_wire.parse(exec_wire.resize(columns, rows))[1]) == (columns, rows)
    assert exec_wire.outcome(exec_wire.parse(exec_wire.end(count))[1]) == count
    assert exec_wire.outcome(exec_wire.parse(exec_wire.failure(text))[1]) == text


@given(st.binary())
def test_whatever_arrives_is_read_or_refused(raw: bytes) -> None:
    for read in (exec_wire.parse, exec_wire.credited, exec_wire.size, exec_wire.outcome, exec_wire.check_close):
        try:
            read(raw)
        except InvalidSpec:
            continue


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"80x24", b"[80, 24]", b"{}", b'{"columns": 80}', b'{"columns": 0, "rows": 24}', b"[" * 100_000,
        b'{"columns": 80, "rows": 65536}', b'{"columns": 80.5, "rows": 24}', b'{"columns": true, "rows": 24}',
    ],
)  # fmt: skip
def test_a_size_that_no_terminal_has_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidSpec, match="resize"):
        exec_wire.size(payload)


@pytest.mark.parametrize("payload", [b"", b"7", b"{}", b'{"exit_code": null}', b'{"exit_code": true}', b"[7]"])
def test_an_end_without_a_code_or_a_reason_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidSpec, match="end"):
        exec_wire.outcome(payload)


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x00\x00"])
def test_only_the_input_can_be_closed(payload: bytes) -> None:
    with pytest.raises(InvalidSpec, match="close"):
        exec_wire.check_close(payload)
