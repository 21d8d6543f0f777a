"""What is offered and agreed on, RFC 7692 sections 5 and 7.1, sans I/O."""

import itertools

import pytest

from geventws import Deflate
from geventws.protocol.headers import parse_extensions
from geventws.protocol.permessage_deflate import (
    Agreement,
    PerMessageDeflate,
    accept_answer,
    accept_offer,
    offer,
)

TAKEOVER = Deflate(server_context_takeover=True, client_context_takeover=True)
DEFAULT = Deflate()


def answer_to(offers, deflate=TAKEOVER):
    """The header of the 101."""
    accepted = accept_offer(parse_extensions(offers), deflate)
    return accepted and accepted[0]


# ------------------------------------------------------------------ the server


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        ("permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", "permessage-deflate"),
        (
            "permessage-deflate; client_max_window_bits=10",
            "permessage-deflate; client_max_window_bits=10",
        ),
        (
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; server_no_context_takeover",
        ),
        (
            "permessage-deflate; client_no_context_takeover",
            "permessage-deflate; client_no_context_takeover",
        ),
        (
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=8",
        ),
        (
            "permessage-deflate; server_max_window_bits=15",
            "permessage-deflate; server_max_window_bits=15",
        ),
        (
            'permessage-deflate; server_max_window_bits="10"',
            "permessage-deflate; server_max_window_bits=10",
        ),
        ("foo, permessage-deflate", "permessage-deflate"),
        ("x-webkit-deflate-frame, permessage-deflate;client_max_window_bits", "permessage-deflate"),
    ],
)
def test_an_offer_is_accepted_as_it_is(offers, answer):
    assert answer_to(offers) == answer


@pytest.mark.parametrize(
    "offers",
    [
        "",
        "foo",
        "Permessage-Deflate",
        "permessage-bzip2",
        "permessage-deflate; unknown",
        "permessage-deflate; unknown=1",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=08",
        "permessage-deflate; server_max_window_bits=1e1",
        "permessage-deflate; client_max_window_bits=0",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
    ],
)
def test_an_offer_that_is_unknown_or_wrong_is_declined(offers):
    assert answer_to(offers) is None


def test_the_first_good_offer_is_accepted():
    assert (
        answer_to(
            "permessage-deflate; server_max_window_bits=7, "
            "permessage-deflate; server_max_window_bits=9, permessage-deflate"
        )
        == "permessage-deflate; server_max_window_bits=9"
    )


PARAMETERS = [
    ["", "server_no_context_takeover"],
    ["", "client_no_context_takeover"],
    ["", "server_max_window_bits=9"],
    ["", "client_max_window_bits", "client_max_window_bits=11"],
]


@pytest.mark.parametrize("combination", list(itertools.product(*PARAMETERS)))
def test_every_combination_in_every_order_gets_the_same_answer(combination):
    chosen = [parameter for parameter in combination if parameter]
    answers = {
        answer_to("; ".join(["permessage-deflate", *order]))
        for order in itertools.permutations(chosen)
    }
    expected = [parameter for parameter in chosen if parameter != "client_max_window_bits"]
    assert answers == {"; ".join(["permessage-deflate", *expected])}


def test_by_default_nobody_takes_context_over():
    assert answer_to("permessage-deflate; client_max_window_bits", DEFAULT) == (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    )


def test_the_servers_own_limits_are_in_the_answer():
    deflate = Deflate(server_max_window_bits=11, client_max_window_bits=10)
    takeover = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    # A client that did not say that it can limit its window cannot be told to.
    assert answer_to("permessage-deflate", deflate) == f"{takeover}; server_max_window_bits=11"
    assert answer_to("permessage-deflate; client_max_window_bits", deflate) == (
        f"{takeover}; server_max_window_bits=11; client_max_window_bits=10"
    )


# ------------------------------------------------------------------ the client


def agreed(answer, deflate=DEFAULT):
    return accept_answer(parse_extensions(answer), deflate)


@pytest.mark.parametrize(
    ("deflate", "header"),
    [
        (
            DEFAULT,
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover;"
            " client_max_window_bits",
        ),
        (TAKEOVER, "permessage-deflate; client_max_window_bits"),
        (
            Deflate(
                server_context_takeover=True,
                client_context_takeover=True,
                server_max_window_bits=9,
                client_max_window_bits=10,
            ),
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10",
        ),
    ],
)
def test_a_client_offers_what_it_wants(deflate, header):
    assert offer(deflate) == header


@pytest.mark.parametrize(
    ("answer", "agreement"),
    [
        (
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            Agreement(True, True),
        ),
        # Some servers forget to confirm; their context is followed then.
        ("permessage-deflate", Agreement(False, True)),
        (
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=8",
            Agreement(False, True, 9, 8),
        ),
    ],
)
def test_a_client_obeys_the_answer(answer, agreement):
    assert agreed(answer) == agreement


def test_a_server_may_decline():
    assert agreed("") is None


@pytest.mark.parametrize(
    ("answer", "deflate"),
    [
        ("foo", DEFAULT),
        ("permessage-deflate, permessage-deflate", DEFAULT),
        ("permessage-deflate; unknown", DEFAULT),
        ("permessage-deflate; client_max_window_bits", DEFAULT),
        ("permessage-deflate; server_no_context_takeover=1", DEFAULT),
        ("permessage-deflate; server_max_window_bits=12", Deflate(server_max_window_bits=11)),
        ("permessage-deflate; client_max_window_bits=12", Deflate(client_max_window_bits=11)),
    ],
)
def test_an_answer_that_was_not_offered_fails_the_connection(answer, deflate):
    with pytest.raises(ValueError, match=r"offered|unknown|value|8 to 15"):
        agreed(answer, deflate)


# --------------------------------------------------------------------- at work


@pytest.mark.parametrize(
    "agreement",
    list(
        map(
            Agreement._make,
            itertools.product(
                [False, True],
                [False, True],
                [8, 15],
                [8, 15],
            ),
        )
    ),
)
def test_both_sides_understand_each_other_whatever_was_agreed_on(agreement):
    server = PerMessageDeflate.of(agreement, TAKEOVER, client=False)
    client = PerMessageDeflate.of(agreement, TAKEOVER, client=True)
    for i in range(5):
        message = b"%d bottles of beer on the wall, " % i * 100
        for one, other in ((client, server), (server, client)):
            assert one.decompressor.decompress(other.compress(message), 1 << 20) == message


def test_without_context_all_connections_share_one_extension():
    agreement = Agreement(True, True)
    one, other = (PerMessageDeflate.of(agreement, Deflate(), client=False) for _ in range(2))
    assert one is other
    assert one.is_shared
    takes_over = PerMessageDeflate.of(Agreement(True, False), Deflate(), client=False)
    assert not takes_over.is_shared


@pytest.mark.parametrize(
    "wrong",
    [
        {"level": 0},
        {"level": 10},
        {"memory_level": 0},
        {"min_size": -1},
        {"level": "1"},
        {"server_max_window_bits": 7},
        {"client_max_window_bits": 16},
    ],
)
def test_a_wrong_value_is_refused_at_once(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Deflate(**wrong)


def test_the_window_of_the_peers_own_messages_costs_no_compressor_of_its_own():
    agreements = [Agreement(True, True, 12, client_max_window_bits=bits) for bits in range(8, 16)]
    shared = [PerMessageDeflate.of(each, DEFAULT, client=False) for each in agreements]
    assert len({id(deflate) for deflate in shared}) == 1
    other = PerMessageDeflate.of(Agreement(True, True, 13), DEFAULT, client=False)
    assert other is not shared[0]


@pytest.mark.parametrize(
    ("agreement", "parameters"), [(None, DEFAULT), (Agreement(), None), (None, None)]
)
def test_without_an_agreement_nothing_is_compressed(agreement, parameters):
    assert PerMessageDeflate.of(agreement, parameters, client=False) is None
