import pytest

from geventws.exceptions import InvalidPayload, ProtocolError
from geventws.protocol.frames import CloseCode, close_payload, may_be_sent, parse_close


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_a_code_that_may_be_sent_makes_the_round_trip(code):
    assert may_be_sent(code)
    assert parse_close(close_payload(code, "why ß")) == (code, "why ß")


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_a_code_that_must_not_be_sent_is_refused_both_ways(code):
    assert not may_be_sent(code)
    with pytest.raises(ValueError, match=str(code)):
        close_payload(code)
    if code > 0:
        with pytest.raises(ProtocolError, match=str(code)):
            parse_close(code.to_bytes(2, "big"))


def test_no_body_means_no_status():
    assert parse_close(b"") == (CloseCode.NO_STATUS_RECEIVED, "")


def test_half_a_code_is_an_error():
    with pytest.raises(ProtocolError):
        parse_close(b"\x03")


def test_a_reason_must_be_utf8():
    with pytest.raises(InvalidPayload):
        parse_close(b"\x03\xe8\xff")


@pytest.mark.parametrize("arguments", [("1000",), (True,), (1000.0,), (1000, None), (1000, b"bye")])
def test_a_close_code_is_an_int_and_a_reason_a_str(arguments):
    with pytest.raises(TypeError, match=r"a close (code|reason) is a"):
        close_payload(*arguments)
