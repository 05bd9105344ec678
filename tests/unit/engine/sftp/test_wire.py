"""SFTP as bytes: what is packed is read back, and what is no packet is told apart from half a one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.engine.sftp import wire
from muster.engine.sftp.wire import MAX_PACKET_BYTES, Attributes, Fields, Kind, Malformed

NUMBERS = st.integers(0, 2**32 - 1)
ATTRIBUTES = st.builds(
    Attributes,
    size=st.none() | st.integers(0, 2**64 - 1),
    owner=st.none() | st.tuples(NUMBERS, NUMBERS),
    permissions=st.none() | NUMBERS,
    times=st.none() | st.tuples(NUMBERS, NUMBERS),
)


@given(ATTRIBUTES)
def test_attributes_are_read_as_they_were_packed(attributes: Attributes) -> None:
    assert Fields(attributes.pack()).attributes() == attributes


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=10), st.integers(1, 20))
def test_packets_are_taken_off_a_stream_in_whatever_pieces_it_comes(bodies: list[bytes], step: int) -> None:
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    received, taken = bytearray(), []
    for begin in range(0, len(stream), step):
        received += stream[begin : begin + step]
        while (packet := wire.split(received)) is not None:
            taken.append(packet)
    assert taken == bodies
    assert not received


@given(st.binary(max_size=60))
def test_any_bytes_are_fields_or_malformed(content: bytes) -> None:
    fields = Fields(content)
    try:
        fields.string()
        fields.path()
        fields.attributes()
    except Malformed:
        return


@pytest.mark.parametrize("length", [0, MAX_PACKET_BYTES + 1, 2**32 - 1])
def test_a_packet_that_is_empty_or_too_long_is_none(length: int) -> None:
    with pytest.raises(Malformed):
        wire.split(bytearray(length.to_bytes(4, "big")))


def test_times_that_do_not_fit_are_shown_at_the_nearer_end() -> None:
    assert Fields(Attributes(times=(-5, 2**40)).pack()).attributes().times == (0, 2**32 - 1)


def test_a_packet_bears_its_length_kind_and_request() -> None:
    assert wire.packet(Kind.DATA, 7, wire.string(b"word")) == b"\0\0\0\x0d\x67\0\0\0\x07\0\0\0\x04word"
