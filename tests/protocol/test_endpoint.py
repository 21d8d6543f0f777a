"""The protocol, sans I/O; make test runs this once with each core."""

import itertools
import random
import zlib

import pytest

from geventws import Deflate
from geventws.exceptions import InvalidPayload, MessageTooBig, ProtocolError
from geventws.protocol.endpoint import MAX_PONGS, Endpoint
from geventws.protocol.frames import CloseCode, Opcode
from geventws.protocol.permessage_deflate import Agreement, PerMessageDeflate
from geventws.protocol.reader import apply_mask, encode_frame
from geventws.protocol.reader_py import MAX_STEPS
from geventws.protocol.state import State
from tests.support.client import BINARY, CLOSE, PING, PONG, TEXT, close_frame, frame
from tests.support.endpoints import opened

NOT_FINAL_TEXT, NOT_FINAL_BINARY, MORE, LAST = 0x01, 0x02, 0x00, 0x80


@pytest.fixture
def server():
    return opened(max_message_size=1 << 20)


@pytest.fixture
def client():
    return opened(client=True)


def feed(protocol, *pieces):
    """All messages that the pieces bring."""
    messages = []
    for piece in pieces:
        protocol.receive_data(piece)
        while (message := protocol.next_message()) is not None or protocol.interrupted:
            protocol.interrupted = False
            if message is not None:
                messages.append(message)
    return messages


# ------------------------------------------------------------- RFC 6455, 5.7


def test_the_rfcs_unmasked_text(client):
    assert feed(client, b"\x81\x05Hello") == ["Hello"]


def test_the_rfcs_masked_text(server):
    assert feed(server, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58") == ["Hello"]


def test_the_rfcs_fragmented_text(client):
    assert feed(client, b"\x01\x03Hel", b"\x80\x02lo") == ["Hello"]


def test_the_rfcs_ping_and_its_masked_pong(client):
    assert feed(client, b"\x89\x05Hello") == []
    pong = client.take_output()
    assert pong[:2] == b"\x8a\x85"
    assert apply_mask(pong[6:], pong[2:6]) == b"Hello"


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x82\x00"),
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (256, b"\x82\x7e\x01\x00"),
        (65535, b"\x82\x7e\xff\xff"),
        (65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_lengths_are_written_and_read_in_their_shortest_form(server, client, size, head):
    payload = random.Random(size).randbytes(size)
    assert server.encode(Opcode.BINARY, payload) == head + payload
    assert feed(client, head + payload) == [payload]
    assert feed(server, encode_frame(Opcode.BINARY, payload, b"mask")) == [payload]


# ------------------------------------------------------------- segmentation

CONVERSATION = b"".join(
    [
        frame(TEXT, "Grüße"),
        frame(BINARY, b""),
        frame(PING, "p"),
        frame(NOT_FINAL_TEXT, "Gr\u00fc".encode()[:3]),
        frame(PONG, "unasked"),
        frame(MORE, b""),
        frame(LAST, "Gr\u00fc\u00dfe".encode()[3:]),
        frame(BINARY, bytes(200)),
        frame(TEXT, "é" * 100),
        frame(NOT_FINAL_BINARY, b"a" * 130),
        frame(LAST, b"b" * 3),
        frame(TEXT, ""),
        close_frame(1001, "tschüß"),
    ]
)
MESSAGES = ["Grüße", b"", "Grüße", bytes(200), "é" * 100, b"a" * 130 + b"bbb", ""]


def check_conversation(protocol, messages):
    assert messages == MESSAGES
    assert protocol.state is State.DRAINING
    assert (protocol.close_code, protocol.close_reason) == (1001, "tschüß")
    assert protocol.closed_by_peer
    assert protocol.error is None
    echo = frame(CLOSE, b"\x03\xe9" + "tschüß".encode(), None)
    assert protocol.take_output() == b"\x8a\x01p" + echo


@pytest.mark.parametrize("cut", range(len(CONVERSATION)))
def test_a_conversation_may_be_cut_anywhere(server, cut):
    check_conversation(server, feed(server, CONVERSATION[:cut], CONVERSATION[cut:]))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 1000])
def test_a_conversation_may_come_in_pieces_of_any_size(server, size):
    pieces = [CONVERSATION[i : i + size] for i in range(0, len(CONVERSATION), size)]
    check_conversation(server, feed(server, *pieces))


@pytest.mark.parametrize("size", [1, 3, 17, 200])
def test_a_borrowed_buffer_may_be_used_again_once_what_is_left_is_kept(server, size):
    shared = bytearray(300)
    messages = []
    for i in range(0, len(CONVERSATION), size):
        piece = CONVERSATION[i : i + size]
        shared[: len(piece)] = piece
        server.borrow(shared, len(piece))
        while (message := server.next_message()) is not None:
            messages.append(message)
        server.keep()
        shared[:] = bytes(300)
    check_conversation(server, messages)


def test_a_message_is_returned_before_the_bytes_behind_it_are_looked_at(server):
    server.receive_data(frame(TEXT, "fine") + b"\xff\xff not a frame")
    assert server.next_message() == "fine"
    assert server.state is State.OPEN
    assert server.next_message() is None
    assert server.state is State.DRAINING


LONG = frame(TEXT, "x" * 200)
#: What is begun, and what finishes it.
BEGUN = [
    (LONG[:1], LONG[1:]),
    (LONG[:5], LONG[5:]),
    (LONG[:50], LONG[50:]),
    (frame(NOT_FINAL_TEXT, "x"), frame(LAST, "y")),
    (frame(PING, "x")[:-1], frame(PING, "x")[-1:]),
]


@pytest.mark.parametrize("first", BEGUN)
@pytest.mark.parametrize("second", BEGUN)
@pytest.mark.parametrize("borrowed", [False, True])
def test_what_is_unfinished_keeps_its_number_until_it_is_finished(server, first, second, borrowed):
    def take(data):
        if borrowed:
            server.borrow(bytearray(data), len(data))
        else:
            server.receive_data(data)
        while server.next_message() is not None:
            pass
        server.keep()
        return server.unfinished()

    assert take(b"") == 0
    (begun, rest), (begun_next, rest_of_next) = first, second
    number = take(begun)
    assert number
    assert server.unfinished() == number
    assert take(rest[:1]) in {number, 0}
    assert take(rest[1:] + begun_next) not in {number, 0}
    assert take(rest_of_next) == 0


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\2\3\4"])
@pytest.mark.parametrize("size", [*range(20), 63, 64, 65, 125, 126, 127, 1000, 65535, 65537])
def test_masks_apply_at_every_size(mask, size):
    data = random.Random(size).randbytes(size)
    expected = bytes(a ^ b for a, b in zip(data, itertools.cycle(mask), strict=False))
    assert apply_mask(data, mask) == expected
    assert apply_mask(bytearray(data), mask) == expected
    assert apply_mask(memoryview(data), mask) == expected


def test_a_client_masks_every_frame_with_another_mask(client, server):
    frames = [client.encode(Opcode.TEXT, b"the same") for _ in range(8)]
    assert len({data[2:6] for data in frames}) > 1
    assert feed(server, *frames) == ["the same"] * 8


# ----------------------------------------------------------- the peer's fault

BAD = [
    (b"\x81\x05Hello", "a frame without a mask"),
    (frame(0x91, "x"), "a reserved bit is set"),
    (frame(0xA1, "x"), "a reserved bit is set"),
    (frame(0xC1, "x"), "a reserved bit is set"),
    (frame(0xC0 | 0x09, "x"), "a reserved bit is set"),
    (frame(0x83), "the reserved opcode 0x3"),
    (frame(0x87), "the reserved opcode 0x7"),
    (frame(0x8B), "the reserved opcode 0xb"),
    (frame(0x8F, "x"), "the reserved opcode 0xf"),
    (frame(0x09, "x"), "a fragmented control frame"),
    (frame(0x08), "a fragmented control frame"),
    (frame(PING, bytes(126)), "a control frame of more than 125 bytes"),
    (frame(CLOSE, bytes(126)), "a control frame of more than 125 bytes"),
    (frame(LAST, "x"), "a continuation of no message"),
    (frame(MORE), "a continuation of no message"),
    (frame(NOT_FINAL_TEXT, "x") + frame(TEXT, "y"), "a new message inside a fragmented one"),
    (frame(NOT_FINAL_TEXT) + frame(BINARY, "y"), "a new message inside a fragmented one"),
    (b"\x82\xfe\x00\x7d" + bytes(4 + 125), "a length that is not in its shortest form"),
    (
        b"\x82\xff" + (65535).to_bytes(8, "big") + bytes(4),
        "a length that is not in its shortest form",
    ),
    (b"\x82\xff" + (1 << 63).to_bytes(8, "big") + bytes(4), "a length of 2**63 bytes or more"),
    (frame(CLOSE, b"\x03"), "a Close frame with half a code"),
    (close_frame(0), "a Close frame with the code 0"),
    (close_frame(999), "a Close frame with the code 999"),
    (close_frame(1004), "a Close frame with the code 1004"),
    (close_frame(1005), "a Close frame with the code 1005"),
    (close_frame(1006), "a Close frame with the code 1006"),
    (close_frame(1015), "a Close frame with the code 1015"),
    (close_frame(1016), "a Close frame with the code 1016"),
    (close_frame(2999), "a Close frame with the code 2999"),
    (close_frame(5000), "a Close frame with the code 5000"),
]


@pytest.mark.parametrize(("data", "reason"), BAD, ids=[reason for _, reason in BAD])
@pytest.mark.parametrize("size", [1, 1000], ids=["bytewise", "at-once"])
def test_a_violation_closes_with_1002(server, data, reason, size):
    data += frame(TEXT, "ignored")
    assert feed(server, *(data[i : i + size] for i in range(0, len(data), size))) == []
    assert server.state is State.DRAINING
    assert type(server.error) is ProtocolError
    close_frame = b"\x88" + bytes((2 + len(reason),)) + b"\x03\xea" + reason.encode()
    assert server.take_output() == close_frame
    assert (server.close_code, server.close_reason) == (1002, reason)
    assert not server.closed_by_peer


def test_a_client_fails_on_a_masked_frame(client):
    assert feed(client, frame(TEXT, "x")) == []
    assert str(client.error) == "a masked frame"


NOT_UTF8 = [
    b"\xff",
    b"\xc0\xaf",
    b"\xe2\x82",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"ok then \x80",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
]


@pytest.mark.parametrize("payload", NOT_UTF8)
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_text_that_is_not_utf8_closes_with_1007(server, payload, cut):
    data = (
        frame(TEXT, payload)
        if not cut
        else (frame(NOT_FINAL_TEXT, payload[:cut]) + frame(LAST, payload[cut:]))
    )
    assert feed(server, data) == []
    assert type(server.error) is InvalidPayload
    assert server.take_output()[2:4] == b"\x03\xef"
    assert server.close_code == CloseCode.INVALID_PAYLOAD


def test_bad_text_fails_before_its_frame_is_complete(server):
    data = frame(TEXT, b"good \xff" + b"x" * 1000, b"\0\0\0\0")
    assert feed(server, data[:13]) == []
    assert server.state is State.OPEN
    assert feed(server, data[13:14]) == []
    assert type(server.error) is InvalidPayload


def test_bad_text_fails_before_its_last_fragment(server):
    assert feed(server, frame(NOT_FINAL_TEXT, b"\xed\xa0"), b"") == []
    assert type(server.error) is InvalidPayload


def test_a_character_may_be_cut_between_fragments_at_every_byte(server):
    text = "κόσμε 😀 end"
    data = text.encode()
    fragments = [frame(NOT_FINAL_TEXT, data[:1])]
    fragments += [frame(MORE, data[i : i + 1]) for i in range(1, len(data))]
    assert feed(server, *fragments, frame(LAST)) == [text]


def test_a_close_reason_that_is_not_utf8_closes_with_1007(server):
    assert feed(server, frame(CLOSE, b"\x03\xe8\xff")) == []
    assert type(server.error) is InvalidPayload


# --------------------------------------------------------------------- sizes


def test_a_message_of_exactly_the_limit_is_received():
    server = opened(max_message_size=1000)
    assert feed(server, frame(BINARY, bytes(1000))) == [bytes(1000)]
    assert feed(server, frame(NOT_FINAL_BINARY, bytes(999)), frame(LAST, b"x")) == [
        bytes(999) + b"x"
    ]


@pytest.mark.parametrize(
    "data",
    [
        frame(BINARY, bytes(1001))[:8],  # the header is enough
        b"\x82\xff" + (1 << 62).to_bytes(8, "big") + bytes(4),
        frame(NOT_FINAL_BINARY, bytes(999)) + frame(LAST, b"xx")[:6],
        frame(NOT_FINAL_TEXT, "x" * 500) + frame(MORE, "x" * 500) + frame(MORE, "x")[:6],
    ],
)
def test_a_message_over_the_limit_closes_with_1009_before_it_is_buffered(data):
    server = opened(max_message_size=1000)
    assert feed(server, data) == []
    assert type(server.error) is MessageTooBig
    assert server.take_output()[2:4] == b"\x03\xf1"


def test_the_limit_may_be_raised_after_the_opening_handshake(server):
    message = frame(TEXT, "x" * ((1 << 20) + 1))
    server.allow_messages_of(1 << 21)
    assert [len(text) for text in feed(server, message)] == [(1 << 20) + 1]


def test_the_limit_holds_for_short_messages_too():
    server = opened(max_message_size=10)
    assert feed(server, frame(TEXT, "0123456789"), frame(TEXT, "0123456789a")) == ["0123456789"]
    assert type(server.error) is MessageTooBig


def test_control_frames_do_not_count():
    server = opened(max_message_size=10)
    assert feed(server, frame(PING, bytes(125)), frame(TEXT, "0123456789")) == ["0123456789"]


# -------------------------------------------------------------------- control


def test_pings_are_answered_in_order_with_their_payload(server):
    feed(server, frame(PING, "1") + frame(PING, bytes(125)) + frame(PING))
    assert server.take_output() == b"\x8a\x011" + b"\x8a\x7d" + bytes(125) + b"\x8a\x00"


def test_of_many_pings_at_once_the_latest_are_answered(server):
    feed(server, b"".join(frame(PING, str(number)) for number in range(100)))
    pongs = [frame(PONG, str(number), None) for number in range(100 - MAX_PONGS, 100)]
    assert server.take_output() == b"".join(pongs)


STEPS = {
    "Pings": frame(PING, "x"),
    "Pongs": frame(PONG),
    "fragments": frame(LAST & 0x7F, "x"),
    "empty fragments": frame(LAST & 0x7F),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_flood_of_frames_without_a_message_is_interrupted(server, step):
    server.receive_data(frame(NOT_FINAL_TEXT) + step * (2 * MAX_STEPS + 10) + frame(LAST, "."))
    interruptions = 0
    while (message := server.next_message()) is None:
        assert server.interrupted
        assert server.has_news
        assert server.has_input
        server.interrupted = False
        interruptions += 1
    assert interruptions == 2
    assert message.endswith(".")


def test_discarded_messages_are_interrupted_too_once_this_side_closes(server):
    server.close()
    server.receive_data(frame(TEXT, "late") * (MAX_STEPS + 1))
    assert server.next_message() is None
    assert server.interrupted
    server.interrupted = False
    assert server.next_message() is None
    assert not server.interrupted


def test_a_pong_is_noted(server):
    assert server.pong is None
    feed(server, frame(PONG, "tag"))
    assert server.pong == b"tag"


# -------------------------------------------------------------------- closing


def test_the_peers_close_is_echoed_once(server):
    assert feed(server, close_frame(3000, "bye") + close_frame(3000) + frame(TEXT, "late")) == []
    assert server.take_output() == b"\x88\x05\x0b\xb8bye"
    assert server.state is State.DRAINING
    assert not server.has_input


def test_a_close_without_a_code_is_1005_and_echoed_empty(server):
    feed(server, frame(CLOSE))
    assert server.take_output() == b"\x88\x00"
    assert server.close_code == 1005


def test_our_close_waits_for_the_peers_and_discards_what_comes_first(server):
    server.close(4001, "go")
    assert server.take_output() == b"\x88\x04\x0f\xa1go"
    assert server.state is State.CLOSING
    late = frame(TEXT, "late") + frame(PING, "late") + frame(BINARY, bytes(70000), b"\0\0\0\0")
    late += frame(BINARY, bytes(300))
    assert feed(server, *(late[i : i + 999] for i in range(0, len(late), 999))) == []
    assert server.state is State.CLOSING
    assert feed(server, *(bytes((byte,)) for byte in close_frame(4001))) == []
    assert server.state is State.DRAINING
    assert server.take_output() == b""
    assert (server.close_code, server.close_reason) == (4001, "go")
    assert not server.closed_by_peer


def test_our_close_may_cut_off_the_peers_message(server):
    data = frame(NOT_FINAL_TEXT, "begun") + frame(LAST, "never read")
    assert feed(server, data[:15]) == []
    server.close()
    assert feed(server, data[15:], close_frame(1000)) == []
    assert server.state is State.DRAINING


def test_garbage_while_closing_ends_the_connection(server):
    server.close()
    assert feed(server, frame(CLOSE, bytes(126))) == []
    assert server.state is State.DRAINING
    assert server.error is None


def test_to_close_twice_sends_one_frame(server):
    server.close(1000)
    server.close(1011)
    assert server.take_output() == b"\x88\x02\x03\xe8"
    assert server.close_code == 1000


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65536])
def test_a_code_that_must_not_be_sent_is_our_mistake(server, code):
    with pytest.raises(ValueError, match="cannot carry the code"):
        server.close(code)
    assert server.state is State.OPEN
    assert server.take_output() == b""


def test_a_reason_has_at_most_123_bytes(server):
    with pytest.raises(ValueError, match="at most 123 bytes, not 124"):
        server.close(1000, "é" * 62)
    server.close(1000, "é" * 61 + "x")
    assert len(server.take_output()) == 2 + 125


def test_a_lost_connection_is_1006(server):
    server.end_transport()
    assert (server.state, server.close_code, server.closed_by_peer) == (State.CLOSED, 1006, True)


def test_a_connection_lost_while_closing_keeps_our_code(server):
    server.close(4000)
    server.end_transport()
    assert (server.state, server.close_code, server.closed_by_peer) == (State.CLOSED, 4000, False)
    server.end_transport()


# ----------------------------------------------------- permessage-deflate, RFC 7692

COMPRESSED = 0x40
HELLO = b"\xf2\x48\xcd\xc9\xc9\x07\x00"  # section 7.2.3.1


def deflating_up_to(size):
    """A server's side that has agreed on permessage-deflate, and compresses from 400 bytes on."""
    return opened(
        max_message_size=size,
        extension=PerMessageDeflate.of(Agreement(True, True), Deflate(), client=False),
    )


@pytest.fixture
def deflating():
    return deflating_up_to(1000)


def squeezed(payload):
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_compressed_messages_may_come_in_fragments_with_control_frames_between(deflating, size):
    data = b"".join(
        [
            frame(TEXT | COMPRESSED, HELLO),
            frame(BINARY | COMPRESSED, HELLO),
            frame(TEXT, "plain"),
            frame(NOT_FINAL_TEXT | COMPRESSED, HELLO[:3]),
            frame(PING, "p"),
            frame(MORE),
            frame(LAST, HELLO[3:]),
            frame(NOT_FINAL_BINARY | COMPRESSED),
            frame(LAST, b"\x00"),
            frame(TEXT | COMPRESSED, b"\x00"),
            frame(NOT_FINAL_TEXT, "pl"),
            frame(LAST, "ain"),
            frame(TEXT | COMPRESSED, squeezed("Grüße".encode())),
        ]
    )
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    assert feed(deflating, *pieces) == [
        "Hello",
        b"Hello",
        "plain",
        "Hello",
        b"",
        "",
        "plain",
        "Grüße",
    ]
    assert deflating.take_output() == b"\x8a\x01p"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(PING | COMPRESSED), id="a control frame"),
        pytest.param(
            frame(NOT_FINAL_TEXT, "a") + frame(LAST | COMPRESSED, "b"), id="a continuation"
        ),
        pytest.param(
            frame(NOT_FINAL_TEXT | COMPRESSED, HELLO) + frame(LAST | COMPRESSED, b"\x00"),
            id="the continuation of a compressed message",
        ),
        pytest.param(frame(TEXT | 0x60, HELLO), id="RSV2 as well"),
        pytest.param(frame(TEXT | 0x10, HELLO), id="RSV3"),
    ],
)
def test_rsv1_belongs_to_the_first_frame_of_a_message_alone(deflating, data):
    assert feed(deflating, data) == []
    assert deflating.error.close_code == CloseCode.PROTOCOL_ERROR
    assert str(deflating.error) == "a reserved bit is set"


def test_a_compressed_message_that_nobody_agreed_on_closes_with_1002(server):
    assert feed(server, frame(TEXT | COMPRESSED, HELLO)) == []
    assert server.error.close_code == CloseCode.PROTOCOL_ERROR


SIZES = [(128 << 10) - 1, 128 << 10, (128 << 10) + 1, 1 << 20]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("first", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize("borrowed", [True, False])
def test_a_large_message_is_inflated_in_pieces(first, size, borrowed):
    server = deflating_up_to(size)
    data = frame(first | COMPRESSED, squeezed(b"x" * size)) + frame(TEXT, "behind it")
    if borrowed:
        server.borrow(bytearray(data), len(data))
    else:
        server.receive_data(data)
    interruptions = 0
    while (message := server.next_message()) is None:
        if borrowed:
            server.keep()
        assert server.interrupted
        assert server.has_input
        assert server.unfinished()
        server.interrupted = False
        interruptions += 1
    assert message == ("x" * size if first == TEXT else b"x" * size)
    assert size >> 17 <= interruptions <= (size >> 17) + 1
    assert server.next_message() == "behind it"
    assert server.error is None


def test_a_message_that_is_too_large_in_its_last_piece_closes_with_1009():
    server = deflating_up_to((1 << 20) - 1)
    assert feed(server, frame(TEXT | COMPRESSED, squeezed(bytes(1 << 20)))) == []
    assert type(server.error) is MessageTooBig
    assert not server.interrupted


def test_nothing_is_inflated_once_this_side_has_closed():
    server = deflating_up_to(1 << 20)
    bomb = frame(BINARY | COMPRESSED, squeezed(bytes(1 << 20)))
    server.receive_data(bomb)
    assert server.next_message() is None
    assert server.interrupted
    server.interrupted = False
    server.close()
    assert feed(server, bomb, frame(BINARY | COMPRESSED, b"\xff"), close_frame(1000)) == []
    assert server.close_received
    assert server.error is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(TEXT | COMPRESSED, b"\x06garbage"), id="corrupt"),
        pytest.param(frame(BINARY | COMPRESSED), id="empty"),
        pytest.param(frame(TEXT | COMPRESSED, HELLO[:4]), id="cut off"),
        pytest.param(frame(TEXT | COMPRESSED, squeezed(b"\xff")), id="text that is not UTF-8"),
    ],
)
def test_what_cannot_be_inflated_closes_with_1007(deflating, data):
    assert feed(deflating, data) == []
    assert deflating.error.close_code == CloseCode.INVALID_PAYLOAD


def test_the_limit_is_for_what_comes_out(deflating):
    assert feed(deflating, frame(BINARY | COMPRESSED, squeezed(bytes(1000)))) == [bytes(1000)]
    noise = random.Random(1).randbytes(1000)
    assert len(squeezed(noise)) > 1000
    assert feed(deflating, frame(BINARY | COMPRESSED, squeezed(noise))) == [noise]
    bomb = squeezed(bytes(1 << 20))
    assert feed(deflating, frame(NOT_FINAL_BINARY | COMPRESSED, bomb[:500])) == []
    assert feed(deflating, frame(LAST, bomb[500:])) == []
    assert deflating.error.close_code == CloseCode.MESSAGE_TOO_BIG


def test_compressed_fragments_are_not_buffered_beyond_the_limit(deflating):
    for i in range(11):
        first = MORE if i else NOT_FINAL_BINARY | COMPRESSED
        assert feed(deflating, frame(first, bytes(99))) == []
    assert deflating.error.close_code == CloseCode.MESSAGE_TOO_BIG


@pytest.mark.parametrize(
    ("payload", "compress", "first"),
    [
        (b"x" * 400, True, BINARY | COMPRESSED),
        (b"x" * 400, False, BINARY),
        (b"x" * 399, True, BINARY),
        (random.Random(1).randbytes(1000), True, BINARY),
    ],
)
def test_a_message_is_compressed_if_that_makes_it_shorter(deflating, payload, compress, first):
    data = deflating.encode_message(Opcode.BINARY, payload, compress)
    assert data[0] == first
    client = opened(client=True, extension=deflating.extension)
    assert feed(client, data) == [payload]


# ---------------------------------------------------- the beginning and the end


def test_nothing_is_parsed_before_the_opening_handshake_is_finished():
    server = Endpoint()
    server.receive_data(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58")
    assert server.next_message() is None
    assert server.state is State.PENDING
    server.open(None, None)
    assert server.state is State.OPEN
    assert feed(server, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58") == ["Hello"]


def test_a_refused_connection_is_closed_and_an_open_one_cannot_be_refused(server):
    pending = Endpoint()
    for endpoint in (pending, server):
        endpoint.refuse()
    assert pending.state is State.CLOSED
    assert server.state is State.OPEN


def test_an_endpoint_that_is_opened_twice_is_a_fault_of_the_caller(server):
    with pytest.raises(AssertionError, match="ACCEPT in the state OPEN"):
        server.open(None, None)


def test_the_error_for_a_use_after_the_end_has_the_code_of_the_end(server, client):
    assert server.closed_error().code == CloseCode.ABNORMAL_CLOSURE
    server.close(1001, "bye")
    feed(client, b"\x88\x06\x03\xe9bye!")
    assert [
        (each.closed_error().code, each.closed_error().reason) for each in (server, client)
    ] == [
        (1001, "bye"),
        (1001, "bye!"),
    ]
    assert not server.closed_error().by_peer
    assert client.closed_error().by_peer


class Interrupted(Endpoint):
    """An endpoint whose process gets Ctrl-C during every control frame."""

    __slots__ = ()

    def _receive_control(self, opcode, payload):
        super()._receive_control(opcode, payload)
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x89\x80\x00\x00\x00\x00", CloseCode.ABNORMAL_CLOSURE),
        (b"\x88\x82\x00\x00\x00\x00\x03\xf0", CloseCode.POLICY_VIOLATION),
    ],
)
def test_an_exception_in_the_parser_ends_the_connection(data, code):
    server = opened(kind=Interrupted)
    server.receive_data(data + b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58")
    with pytest.raises(KeyboardInterrupt):
        server.next_message()
    assert server.state is State.DRAINING
    assert server.close_code == code
    assert server.next_message() is None
    assert not server.has_input


def test_as_many_frames_as_are_parsed_at_once_interrupt_nothing(server):
    server.receive_data(b"\x8a\x80\x00\x00\x00\x00" * MAX_STEPS)
    assert server.next_message() is None
    assert not server.interrupted
    assert not server.has_input


def test_a_buffer_that_is_lent_after_the_end_is_not_looked_at(server):
    server.end_transport()
    server.borrow(bytearray(b"\x81\x81\x00\x00\x00\x00x"), 7)
    assert not server.has_input
    assert server.next_message() is None
