"""Compressing and inflating, sans I/O, with each library that is there."""

import json
import os
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geventws.exceptions import InvalidPayload, MessageTooBig
from geventws.protocol import compression as deflate
from geventws.protocol.compression import (
    Compressor,
    ContextCompressor,
    ContextDecompressor,
    Decompressor,
)

MIB = 1 << 20
RECORDS = json.dumps([{"id": i, "price": i * 7919 % 1000} for i in range(2000)]).encode()


@pytest.fixture(params=["zlib", "isal"])
def library(request, monkeypatch):
    """Which library compresses; both must do the same."""
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setattr(deflate, "isal_zlib", None)


def inflate(data, window_bits=15):
    """What another implementation makes of a compressed message."""
    decompressor = zlib.decompressobj(-window_bits)
    return decompressor.decompress(data + b"\x00\x00\xff\xff") + decompressor.flush()


def compressed(data, level=6, window_bits=15):
    """What another implementation sends."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window_bits)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


# ---------------------------------------------------------------- compressing


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("level", range(1, 10))
@pytest.mark.parametrize("size", [400, 4095, 4096, len(RECORDS)])
def test_messages_shrink_and_do_not_refer_to_each_other(level, size):
    compressor = Compressor(level, 15, 8)
    for _ in range(3):
        data = compressor.compress(RECORDS[:size])
        assert len(data) < size * 0.8
        assert inflate(data) == RECORDS[:size]


@pytest.mark.usefixtures("library")
def test_what_would_grow_is_left_alone():
    compressor = Compressor(1, 15, 8)
    assert compressor.compress(os.urandom(1000)) is None
    assert compressor.compress(os.urandom(10000)) is None
    assert inflate(compressor.compress(RECORDS)) == RECORDS


@pytest.mark.usefixtures("library")
def test_a_short_message_refers_back_to_its_beginning():
    block = random.Random(1).randbytes(250)
    data = block + b"x" * 3550 + block
    assert len(Compressor(1, 15, 8).compress(data)) < 350


@pytest.mark.parametrize("window_bits", range(8, 16))
@pytest.mark.parametrize("kind", [Compressor, ContextCompressor])
def test_no_message_refers_back_farther_than_its_window(kind, window_bits):
    compressor = kind(1, window_bits, 8)
    block = random.Random(1).randbytes(2**window_bits - 200)
    data = block + b"x" * 300 + block + RECORDS  # a match just beyond the window
    assert inflate(compressor.compress(data), window_bits) == data


def test_context_makes_the_same_message_shorter_each_time():
    compressor, decompressor = ContextCompressor(1, 15, 8), ContextDecompressor(15)
    first, second = compressor.compress(RECORDS[:2000]), compressor.compress(RECORDS[:2000])
    assert len(second) < len(first) / 4
    assert decompressor.decompress(first, MIB) == RECORDS[:2000]
    assert decompressor.decompress(second, MIB) == RECORDS[:2000]


def test_context_does_not_refer_to_a_message_that_was_left_alone():
    compressor, decompressor = ContextCompressor(1, 15, 8), ContextDecompressor(15)
    noise = os.urandom(1000)
    assert compressor.compress(noise) is None
    message = noise + RECORDS[:1000]
    assert decompressor.decompress(compressor.compress(message), MIB) == message


# ------------------------------------------------------------------ inflating


@pytest.fixture(params=[Decompressor, lambda: ContextDecompressor(15)], ids=["single", "context"])
def decompressor(request):
    return request.param()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xf2\x48\xcd\xc9\xc9\x07\x00", id="7.2.3.1, one block"),
        pytest.param(b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", id="7.2.3.3, not compressed"),
        pytest.param(b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", id="7.2.3.4, a final block"),
        pytest.param(
            b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", id="7.2.3.5, two blocks"
        ),
    ],
)
def test_the_rfcs_hellos(decompressor, data):
    assert decompressor.decompress(data, 5) == b"Hello"


def test_the_rfcs_second_hello_refers_to_the_first():
    decompressor = ContextDecompressor(15)
    assert decompressor.decompress(b"\xf2\x48\xcd\xc9\xc9\x07\x00", 5) == b"Hello"
    assert decompressor.decompress(b"\xf2\x00\x11\x00\x00", 5) == b"Hello"


def test_without_context_no_message_reaches_into_another():
    decompressor = Decompressor()
    assert decompressor.decompress(b"\xf2\x48\xcd\xc9\xc9\x07\x00", 5) == b"Hello"
    with pytest.raises(InvalidPayload):
        decompressor.decompress(b"\xf2\x00\x11\x00\x00", 5)


def test_an_empty_message_is_one_byte(decompressor):
    assert decompressor.decompress(b"\x00", 1) == b""


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("window_bits", [9, 12, 15])
def test_what_others_send_is_inflated(decompressor, level, window_bits):
    for _ in range(3):
        data = compressed(RECORDS, level, window_bits)
        assert decompressor.decompress(data, MIB) == RECORDS


def test_a_message_of_exactly_the_limit_passes_and_one_byte_more_does_not(decompressor):
    assert decompressor.decompress(compressed(bytes(1000)), 1000) == bytes(1000)
    with pytest.raises(MessageTooBig, match="1000 bytes"):
        decompressor.decompress(compressed(bytes(1001)), 1000)


@pytest.mark.parametrize("size", [65_000, 65_536, 200_000, 3_000_000])
def test_what_hardly_shrinks_is_inflated_in_pieces_of_what_came(decompressor, size):
    message = random.Random(size).randbytes(size)
    assert decompressor.decompress(compressed(message), 4 * MIB) == message


def test_a_bomb_takes_no_more_memory_than_the_limit(decompressor):
    import tracemalloc

    bomb = compressed(bytes(256 * MIB), 9)
    tracemalloc.start()
    try:
        with pytest.raises(MessageTooBig):
            decompressor.decompress(bomb, MIB)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_several_final_blocks_make_one_message(decompressor):
    parts = [RECORDS[:5000], b"", RECORDS[5000:9000]]
    data = b""
    for part in parts:
        compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
        data += compressor.compress(part) + compressor.flush()
    assert decompressor.decompress(data + b"\x00", MIB) == b"".join(parts)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x06", id="a block type that does not exist"),
        pytest.param(b"\x00\x05\x00\xff\xff\x48\x65\x6c\x6c\x6f\x00", id="a length that is wrong"),
        pytest.param(
            b"\xf3\x48\xcd\xc9\xc9\x07\x00\x06trailing", id="garbage behind a final block"
        ),
        pytest.param(b"\x03\x00" * 1000 + b"\x00", id="a thousand final blocks"),
    ],
)
def test_what_is_no_deflate_stream_is_refused(data):
    with pytest.raises(InvalidPayload):
        Decompressor().decompress(data, MIB)


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_message_that_is_cut_off_is_refused(cut):
    data = compressed(RECORDS[:300])
    with pytest.raises(InvalidPayload):
        Decompressor().decompress(data[: -cut - 1], MIB)


@given(st.binary(max_size=500), st.integers(1, 1000))
def test_whatever_comes_in_is_inflated_within_the_limit_or_refused(data, limit):
    for decompressor in (Decompressor(), ContextDecompressor(9)):
        try:
            assert len(decompressor.decompress(data, limit)) <= limit
        except (InvalidPayload, MessageTooBig):
            pass


@given(st.lists(st.binary(max_size=2000), max_size=5), st.integers(1, 9), st.integers(8, 15))
def test_whatever_is_compressed_comes_back(messages, level, window_bits):
    for compressor, decompressor in (
        (Compressor(level, window_bits, 8), Decompressor()),
        (ContextCompressor(level, window_bits, 8), ContextDecompressor(window_bits)),
    ):
        for message in messages:
            data = compressor.compress(message)
            if data is not None:
                assert decompressor.decompress(data, 2000) == message
