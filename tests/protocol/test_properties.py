"""Any sequence of messages, fragmented and cut in any way: both cores do what the model does."""

import itertools
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geventws.protocol.permessage_deflate import Agreement
from tests.fuzz.twins import CORES, check
from tests.support.client import close_frame, frame
from tests.support.tools import missing

#: Under coverage.py, Hypothesis takes ten times as long; other tests run the same lines.
pytestmark = pytest.mark.no_cover
quick = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

sizes = st.sampled_from([0, 1, 2, 3, 7, 124, 125, 126, 127, 200, 65535, 65536, 70000])
texts = st.text(max_size=60) | sizes.map(lambda size: "é" * (size // 2) + "x" * (size % 2))
messages = texts | st.binary(max_size=60) | sizes.map(bytes)
masks = st.binary(min_size=4, max_size=4)
controls = st.builds(
    lambda first, payload: (first, payload), st.sampled_from([0x89, 0x8A]), st.binary(max_size=125)
)


@pytest.fixture(autouse=True, scope="module")
def both_cores():
    if len(CORES) < 2:
        missing("the compiled core is not built: install a C compiler, then make clean test")


@st.composite
def frames_of(draw, message):
    """A message as frames: (first byte, payload), with control frames in between."""
    first = 0x01 if isinstance(message, str) else 0x02
    data = message.encode() if isinstance(message, str) else message
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    bounds = [0, *cuts, len(data)]
    frames = []
    for i, (start, end) in enumerate(itertools.pairwise(bounds)):
        fin = 0x80 if i == len(cuts) else 0
        frames.append(((first if i == 0 else 0) | fin, data[start:end]))
        frames += draw(st.lists(controls, max_size=2)) if not fin else []
    return frames


@st.composite
def conversations(draw, client):
    """What a peer says, in order, and how it says it."""
    said = draw(st.lists(messages, max_size=5))
    frames = [each for message in said for each in draw(frames_of(message))]
    stream = b"".join(
        frame(first, payload, None if client else draw(masks)) for first, payload in frames
    )
    return said, stream


def cuts_of(draw, stream):
    return sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))


@quick
@given(st.data(), st.booleans(), st.booleans())
def test_what_was_said_is_what_is_received(data, client, borrowed):
    said, stream = data.draw(conversations(client))
    outcome = check(stream, cuts_of(data.draw, stream), client=client, borrowed=borrowed)
    assert outcome.messages == said
    assert not outcome.is_closed


@quick
@given(st.data(), st.sampled_from([1000, 1001, 3000, 4999]), st.text(max_size=30))
def test_nothing_is_received_after_the_close(data, code, reason):
    said, stream = data.draw(conversations(False))
    _, late = data.draw(conversations(False))
    stream += close_frame(code, reason) + late
    outcome = check(stream, cuts_of(data.draw, stream))
    assert outcome.messages == said
    assert outcome.close_code == code


@quick
@given(st.data(), st.booleans())
def test_a_limit_is_a_limit_for_every_fragmentation(data, client):
    said, stream = data.draw(conversations(client))
    limit = data.draw(st.integers(1, 200))
    outcome = check(stream, cuts_of(data.draw, stream), client=client, max_message_size=limit)
    lengths = [len(each.encode() if isinstance(each, str) else each) for each in said]
    too_long = next((i for i, length in enumerate(lengths) if length > limit), None)
    assert outcome.messages == said[:too_long]
    assert outcome.fault == (None if too_long is None else 1009)


@quick
@given(st.data(), st.booleans(), st.booleans())
def test_a_damaged_stream_ends_the_same_in_both_cores(data, client, borrowed):
    _, stream = data.draw(conversations(client))
    damaged = bytearray(stream)
    for _ in range(data.draw(st.integers(1, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    stream = bytes(damaged)
    cuts = cuts_of(data.draw, stream)
    close_at = data.draw(st.none() | st.integers(0, len(cuts)))
    check(stream, cuts, client=client, close_at=close_at, borrowed=borrowed)


def compress(message, compressor, *, shared):
    """As RFC 7692 section 7.2.1 says."""
    data = message.encode() if isinstance(message, str) else message
    compressed = compressor.compress(data) + compressor.flush(
        zlib.Z_FULL_FLUSH if shared else zlib.Z_SYNC_FLUSH
    )
    return compressed[:-4]


@quick
@given(st.data(), st.lists(messages, max_size=4), st.booleans(), st.booleans())
def test_what_was_compressed_is_what_is_received(data, said, client, takeover):
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    stream = b""
    for message in said:
        payload = compress(message, compressor, shared=not takeover)
        cut = data.draw(st.integers(0, len(payload)))
        first = 0x40 | (1 if isinstance(message, str) else 2)
        mask = None if client else data.draw(masks)
        stream += frame(first, payload[:cut], mask) + frame(0x89, b"?", mask)
        stream += frame(0x80, payload[cut:], mask)
    agreement = Agreement(not takeover, not takeover)
    outcome = check(stream, cuts_of(data.draw, stream), client=client, agreement=agreement)
    assert outcome.messages == said
    damaged = bytearray(stream)
    if damaged:
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    check(
        bytes(damaged),
        cuts_of(data.draw, stream),
        client=client,
        agreement=agreement,
        max_message_size=data.draw(st.integers(1, 1000)),
    )


@quick
@given(st.data(), st.binary(max_size=300), st.booleans())
def test_noise_ends_the_same_in_both_cores(data, noise, client):
    cuts = cuts_of(data.draw, noise)
    close_at = data.draw(st.none() | st.integers(0, len(cuts)))
    check(noise, cuts, client=client, max_message_size=100, close_at=close_at)


@quick
@given(st.data(), st.binary(max_size=12), st.binary(max_size=12))
def test_text_is_utf8_or_fails_as_soon_as_it_cannot_become_so(data, head, tail):
    payload = b"ok" + head + "é😀".encode() + tail
    cut = data.draw(st.integers(0, len(payload)))
    stream = frame(0x01, payload[:cut]) + frame(0x80, payload[cut:])
    check(stream, cuts_of(data.draw, stream))
