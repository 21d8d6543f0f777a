"""What a channel delivers when it goes live, and the format of messages: without a Redis."""

import pytest
from redis.crc import key_slot

from geventws.broadcast.backend import Message
from geventws.broadcast.redis_channel import MAX_PENDING, ChannelState, Read
from geventws.broadcast.redis_messages import (
    LATEST_TTL,
    Entry,
    channel_of,
    decode_entry,
    decode_published,
    epoch_of,
    key_of,
    latest_key_of,
    new_epoch,
    number_of,
)

EPOCH = 5 << 32


def id_at(number, time=None, epoch=EPOCH):
    """The id of a message: by default, its time is its number."""
    return f"{number if time is None else time}-{epoch + number}"


def message(id_):
    return Message("room", f"message {id_}", id_)


def read(ids, latest=None, epoch=EPOCH):
    """What was read: entries that follow each other, the first one has a predecessor, too."""
    entries = []
    for id_ in ids:
        number = number_of(id_) - 1
        previous = entries[-1].id if entries else id_at(number, epoch=epoch)
        entries.append(Entry(message(id_), id_, previous))
    return Read(entries, True, latest or ids[-1])


def state_after(*delivered):
    state = ChannelState()
    for id_ in delivered:
        state.note_delivered(id_)
    state.confirm("")
    return state


def go_live(state, what, pending=()):
    for id_ in pending:
        state.add_pending(Message("room", "passing", None) if id_ is None else message(id_))
    missed, messages = state.go_live(what)
    assert state.is_live
    assert state.pending is None
    return missed, [it.id for it in messages]


IDS = [id_at(number) for number in range(20)]


@pytest.mark.parametrize(
    ("stored", "pending", "expected"),
    [
        ([4, 5], [], (0, [])),
        ([4, 5, 6, 7], [], (0, [6, 7])),
        ([6, 7], [], (0, [6, 7])),
        ([5, 6, 7, 8], [7, 8], (0, [6, 7, 8])),
        ([5, 6, 7], [8, 9], (0, [6, 7, 8, 9])),
        ([8, 9], [6, 7, 8, 9, 10], (0, [6, 7, 8, 9, 10])),
        ([9], [], (3, [9])),
        ([9], [9, 10], (3, [9, 10])),
        ([9], [8, 9], (2, [8, 9])),
        ([9, 10], [11], (3, [9, 10, 11])),
    ],
)
def test_what_was_missed_comes_first_and_everything_once(stored, pending, expected):
    state = state_after(IDS[4], IDS[5])
    missed, ids = go_live(
        state, read([IDS[number] for number in stored]), [IDS[number] for number in pending]
    )
    assert (missed, [number_of(id_) for id_ in ids]) == expected


def test_a_history_that_expired_with_what_was_missed_is_a_gap():
    assert go_live(state_after(IDS[5]), Read([], True, IDS[9])) == (4, [])
    assert go_live(state_after(IDS[5]), Read([], True, IDS[9]), [IDS[10]]) == (4, [IDS[10]])


def test_a_history_that_expired_in_a_quiet_channel_is_none():
    assert go_live(state_after(IDS[5]), Read([], True, IDS[5])) == (0, [])
    assert go_live(state_after(IDS[5]), Read([], True, IDS[5]), [IDS[6]]) == (0, [IDS[6]])
    assert go_live(state_after(IDS[5]), Read([], True, IDS[6]), [IDS[6]]) == (0, [IDS[6]])


def test_a_first_subscriber_gets_nothing_old():
    state = state_after()
    assert go_live(state, read(IDS[3:6])) == (0, [])
    assert state.position == IDS[5]
    state = state_after()
    assert go_live(state, read(IDS[3:6]), [IDS[5], IDS[6]]) == (0, [IDS[5], IDS[6]])


def test_all_of_a_new_epoch_is_new_even_if_the_clock_went_back():
    later = 6 << 32
    ids = [id_at(number, epoch=later) for number in range(1, 4)]
    state = state_after(id_at(7, time=1000), id_at(8, time=1001))
    assert go_live(state, read(ids, epoch=later)) == (0, ids)
    state = state_after(id_at(7, time=1000))
    assert go_live(state, read(ids[1:], epoch=later)) == (1, ids[1:])


def test_what_a_running_redis_has_forgotten_meanwhile_is_a_gap():
    later = 6 << 32
    new = [id_at(number, time=20 + number, epoch=later) for number in (1, 2)]

    def interrupted(position, server, new=new):
        state = state_after(position)
        state.confirm("a")
        state.interrupt()
        state.confirm(server)
        return go_live(state, read(new, epoch=later))

    assert interrupted(IDS[5], "a") == (1, new)
    assert interrupted(IDS[5], "b") == (0, new)
    much_later = [id_at(1, time=6 + LATEST_TTL, epoch=later)]
    assert interrupted(IDS[5], "a", much_later) == (0, much_later)  # Redis may forget it by then


def test_if_redis_lost_its_latest_messages_the_others_are_not_repeated():
    lost = [id_at(number) for number in (6, 7)]
    state = state_after(IDS[5], *lost)
    new = [id_at(number, time=100 + number) for number in (6, 7, 8)]
    assert go_live(state, read([IDS[4], IDS[5], *new])) == (0, new)
    state = state_after(*lost)  # what is left is older than all that is remembered
    assert go_live(state, read([IDS[4], IDS[5], *new])) == (0, new)


def test_a_message_with_the_same_number_in_its_epoch_is_not_the_same_message():
    state = state_after(id_at(7, time=7))
    new = [id_at(number, time=100 + number) for number in (8, 9)]
    entries = [
        Entry(message(new[0]), new[0], id_at(7, time=107)),
        Entry(message(new[1]), new[1], new[0]),
    ]
    assert go_live(state, Read(entries, True, new[1])) == (1, new)


def test_messages_that_are_not_stored_keep_their_place():
    state = state_after(IDS[5])
    passed = go_live(state, read(IDS[4:8]), [IDS[7], None, IDS[8]])
    assert passed == (0, [IDS[6], IDS[7], None, IDS[8]])


def test_an_epoch_without_a_message_is_no_gap():
    assert go_live(state_after(id_at(0)), read([id_at(1), id_at(2)]))[0] == 0
    assert go_live(state_after(IDS[5]), Read([], True, f"0-{new_epoch()}")) == (0, [])


def test_what_waits_for_the_history_takes_a_bounded_amount_of_memory():
    state = state_after(IDS[0])
    size = MAX_PENDING // 4
    for number in range(1, 10):
        state.add_pending(Message("room", bytes(size), IDS[number]))
    missed, messages = state.go_live(read([IDS[9]]))
    assert missed + len(messages) == 9
    assert 0 < len(messages) < 5
    assert messages[-1].id == IDS[9]


# ------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    "channel",
    ["room", "{a}", "{a}b", "a{b}c", "}", "x}y", "{", "{}", "{}{a}", "a{}b}", "😀", "a{b"],
)
def test_a_cluster_has_both_keys_of_a_channel_on_the_same_node(channel):
    key = key_of(channel).encode()
    assert key_slot(key) == key_slot(latest_key_of(channel).encode())
    assert channel_of(key) == channel


def test_no_two_channels_share_a_key():
    names = ["room", "{room}", "{geventws:room}", "geventws:room", "}room", "}{room", "{}room"]
    names += [latest_key_of(name).removeprefix("geventws:") for name in names]
    names = sorted({*names, *(f"\x7f{name}" for name in names)})
    keys = [key_of(name) for name in names] + [latest_key_of(name) for name in names]
    assert len(set(keys)) == 2 * len(names)


def test_an_epoch_fits_into_a_number_of_lua():
    for _ in range(1000):
        epoch = new_epoch()
        assert 0 < epoch + (1 << 32) < 1 << 53
        assert epoch_of(f"1-{epoch + 7}") == epoch >> 32
        assert number_of(f"1-{epoch + 7}") == 7


@pytest.mark.parametrize(
    "fields",
    [{}, {b"m": b"\x01x"}, {b"m": b"\x01x", b"p": b"-1"}, {b"m": b"x", b"p": b"1"}, {b"p": b"1"}],
)
def test_an_entry_of_another_program_is_none(fields):
    assert decode_entry("room", b"5-7", fields) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"\x01", b"\x01x", b"\x01 \xff", b"\x01not-an-id x", b"\x04 x", b"\x015-7", b"5-7 x"],
)
def test_a_published_message_of_another_program_is_none(data):
    assert decode_published("room", data) is None
