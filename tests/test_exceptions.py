"""What the exceptions tell, and that they survive copying."""

import copy
import pickle

import pytest

from geventws import ConnectionClosed, HandshakeError

CLOSED = ConnectionClosed(1000, "bye", by_peer=False)
REFUSED = HandshakeError("404 Not Found", b"nothing here", [("X-Name", "y")])


def test_a_close_code_is_no_errno():
    assert CLOSED.errno is None
    assert str(CLOSED) == "connection closed by this side with code 1000: bye"


@pytest.mark.parametrize(("status", "code"), [("404 Not Found", 404), ("503", 503), ("", 0)])
def test_a_refusal_has_its_status_as_a_number(status, code):
    assert HandshakeError(status).status_code == code
    assert HandshakeError(status).errno is None


@pytest.mark.parametrize("error", [CLOSED, REFUSED], ids=["closed", "refused"])
@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_can_be_copied(error, copied):
    twin = copied(error)
    assert type(twin) is type(error)
    assert vars(twin) == vars(error)
    assert str(twin) == str(error)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            HandshakeError("", "the server closed the connection without a response"),
            "the server closed the connection without a response",
        ),
        (HandshakeError("302 Found", b"", [("Location", "/login")]), "302 Found: /login"),
        (HandshakeError("500 Oops", b"x" * 1000), "500 Oops: " + "x" * 200 + "..."),
    ],
)
def test_the_text_of_a_refusal_is_short_and_names_what_matters(error, text):
    assert str(error) == text


def test_the_representation_of_a_close_has_its_code():
    assert repr(CLOSED) == "ConnectionClosed(1000, 'bye', by_peer=False)"
