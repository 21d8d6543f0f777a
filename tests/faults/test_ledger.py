"""The ledger finds each kind of fault, and nothing else."""

import pytest

from tests.faults.ledger import KINDS, Ledger, Publication, Received, Session

#: Two publishers in one channel: messages a1, b1, a2, b2, … with the ids 1-0, 2-0, 3-0, 4-0, …
TEXTS = ["a1", "b1", "a2", "b2", "a3", "b3", "a4", "b4"]
IDS = {text: f"{number}-0" for number, text in enumerate(TEXTS, 1)}


def ledger(*, final="b4", unconfirmed=(), **options):
    record = Ledger(**options)
    for text in TEXTS:
        id_ = None if text in unconfirmed else IDS[text]
        record.add_publication(Publication("room", text[0], int(text[1]), text, id_))
    record.final["room"] = final
    return record


def session(texts, since=None, recovered=True, close_code=None):
    received = [Received(IDS.get(text, "99-0"), text) for text in texts.split()]
    return Session("room", since, recovered, received, close_code)


def findings(record, **clients):
    for name, sessions in clients.items():
        for each in sessions:
            record.add_session(name, each)
    verdict = record.check()
    assert {finding.kind for finding in verdict.findings} <= set(KINDS)
    return [(finding.kind, finding.client) for finding in verdict.findings]


ALL = " ".join(TEXTS)


@pytest.mark.parametrize(
    "sessions",
    [
        [session(ALL)],
        [session("a1 b1 a2"), session("b2 a3 b3 a4 b4", "3-0")],
        [session("a3 b3 a4 b4")],  # it came late, and without a history
        [session("a1 b1"), session("", "2-0", None), session("a2 b2 a3 b3 a4 b4", "2-0")],
        [session("a1 b1"), session("a3 b3 a4 b4", "2-0", False)],
        [session("a1 b1 a2"), session(ALL, "3-0", False)],  # an unknown id: all kept messages
        [session("a1 b1", close_code=1013), session("a3 b3 a4 b4", "2-0", False)],
        [session("a1 b1"), session("b3", "2-0", None), session("a4 b4", "6-0")],
    ],
)
def test_sessions_without_a_fault(sessions):
    assert findings(ledger(), one=sessions, other=[session(ALL)]) == []


@pytest.mark.parametrize(
    "sessions",
    [
        [session("a1 b1 a1 a2 b2 a3 b3 a4 b4")],
        [session("a1 b1"), session("b1 a2 b2 a3 b3 a4 b4", "2-0")],
        [session("a1 b1 a2"), session("", "3-0"), session("b1 b2 a3 b3 a4 b4", "3-0")],
    ],
)
def test_a_message_that_comes_twice_is_a_duplicate(sessions):
    assert findings(ledger(), one=sessions) == [("duplicate", "one")]


def test_a_message_that_was_sent_twice_has_two_ids_and_is_a_duplicate():
    twice = session(ALL)
    twice.received.insert(4, Received("4-1", "a2"))
    assert findings(ledger(), one=[twice]) == [("duplicate", "one")]


def test_an_unconfirmed_message_must_not_come_twice_either():
    record = ledger(unconfirmed=["b1"])
    assert findings(record, one=[session("a1 b1 b1 a2 b2 a3 b3 a4 b4")]) == [("duplicate", "one")]


def test_the_order_of_a_publisher_is_kept_over_sessions():
    record = ledger(ids_rise=False)
    sessions = [session("a1 b1 a3 b2 a2"), session("b3 a4 b4", "3-0")]
    assert findings(record, one=sessions) == [("disorder", "one")]


def test_an_unconfirmed_message_may_come_after_the_next_one_of_its_publisher():
    record = ledger(ids_rise=False, unconfirmed=["a2"])
    assert findings(record, one=[session("a1 b1 b2 a3 a2 b3 a4 b4")]) == []


def test_ids_rise():
    assert findings(ledger(), one=[session("b1 a1 a2 b2 a3 b3 a4 b4")]) == [("disorder", "one")]


def test_two_clients_receive_messages_of_different_publishers_in_one_order():
    record = ledger(ids_rise=False)
    swapped = session("b1 a1 a2 b2 a3 b3 a4 b4")
    assert findings(record, one=[session(ALL)], other=[swapped]) == [("disorder", "other")]


@pytest.mark.parametrize(
    "sessions",
    [
        [session("a1 b1 b2 a3 b3 a4 b4")],
        [session("a1 b1"), session("b2 a3 b3 a4 b4", "2-0")],
        [session("a1 b1", close_code=1013), session("b2 a3 b3 a4 b4", "2-0", True)],
        [session("a1 b1"), session("", "2-0", True), session("b2 a3 b3 a4 b4", "2-0", True)],
    ],
)
def test_a_missing_message_is_a_gap(sessions):
    record = ledger()
    assert findings(record, one=sessions) == [("gap", "one")]


def test_a_gap_right_before_the_final_message_is_found():
    assert findings(ledger(), one=[session("a1 b1 a2 b2 a3 b3 b4")]) == [("gap", "one")]


def test_an_unconfirmed_message_is_missing_only_if_another_client_received_it():
    without = "a1 a2 b2 a3 b3 a4 b4"
    assert findings(ledger(unconfirmed=["b1"]), one=[session(without)]) == []
    record = ledger(unconfirmed=["b1"])
    assert findings(record, one=[session(without)], other=[session(ALL)]) == [("gap", "one")]


def test_a_client_without_the_final_message_is_deaf():
    assert findings(ledger(), one=[session("a1 b1 a2")], other=[session(ALL)]) == [("deaf", "one")]


def test_a_client_may_lose_its_connection_after_the_final_message():
    assert findings(ledger(), one=[session(ALL), session("", "8-0", None)]) == []


def test_a_client_that_received_nothing_at_all_is_deaf():
    assert findings(ledger(), one=[session("", None, None)]) == [("deaf", "one")]


def test_recovered_is_known_at_last():
    assert findings(ledger(), one=[session(ALL, "0-1", None)]) == [("deaf", "one")]


def test_a_message_that_nobody_published_or_of_another_channel_is_a_stray():
    record = ledger()
    record.add_publication(Publication("elsewhere", "c", 1, "c1", "5-1"))
    assert findings(record, one=[session(ALL + " c1 x1")]) == [("stray", "one"), ("stray", "one")]


def test_a_gap_is_not_told_if_redis_lost_nothing():
    sessions = [session("a1", close_code=1013), session("b1 a2 b2 a3 b3 a4 b4", "1-0", False)]
    assert findings(ledger(), one=sessions) == []
    record = ledger(is_lossless=True)
    assert findings(record, one=sessions) == [("needless", "one"), ("needless", "one")]


def test_other_channels_are_not_checked():
    record = ledger()
    odd = session("a1 a1 b4")
    odd.channel = "odd"
    assert findings(record, one=[odd], other=[session(ALL)]) == []


def test_everything_is_counted():
    record = ledger(unconfirmed=["b1"])
    record.add_session("one", session("a1", close_code=1013))
    record.add_session("one", session("a2 b2 a3 b3 a4 b4", "1-0", False))
    verdict = record.check()
    assert (verdict.published, verdict.refused) == (7, 1)
    assert (verdict.received, verdict.told, verdict.findings) == (7, 2, [])


def test_a_text_is_published_once():
    record = ledger()
    with pytest.raises(ValueError, match="published before"):
        record.add_publication(Publication("room", "a", 1, "a1", "9-0"))
