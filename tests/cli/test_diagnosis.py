"""From what ``geventws check`` has observed to its sentences."""

import errno
import re
import socket
import ssl

import pytest

from geventws import HandshakeError
from geventws.cli.diagnosis import Facts, diagnose, summary
from geventws.protocol.urls import parse_url

REFUSED = HandshakeError("403 Forbidden")
#: The observations of a WebSocket without problems.
FINE = {"extensions": "permessage-deflate", "seconds_to_open": 0.012, "seconds_to_pong": 0.003}


def facts(url="ws://a.example/chat", **others):
    target = parse_url(url)
    origin = f"{'https' if target.secure else 'http'}://{target.authority}"
    return Facts(**{"target": target, "origin": origin, "own_origin": origin, **others})


def failed(error, url="ws://a.example/chat", **others):
    return facts(url, browser_error=error, plain_error=error, **others)


def distrust(code, message="of another kind"):
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, message
    return error


@pytest.mark.parametrize(
    ("error", "others", "explanation"),
    [
        (socket.gaierror(-2, "unknown"), {}, r"The name a\.example cannot be resolved"),
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "cannot connect"),
            {},
            "No server listens: cannot connect",
        ),
        (OSError(errno.EHOSTUNREACH, "no route"), {}, "The connection fails: no route"),
        (TimeoutError("late"), {}, r"a\.example port 80 does not answer"),
        (TimeoutError("late"), {"is_reachable": True}, r"does not answer\. Call ws\.accept\(\)"),
        (TimeoutError("late"), {"proxy": "p:1"}, "goes through the proxy p:1"),
        (distrust(10), {}, r"not accepted: it has expired\."),
        (distrust(18), {}, r"it is self-signed.*SSL_CERT_FILE"),
        (distrust(20), {}, "its issuer is unknown.*intermediate certificates"),
        (distrust(62), {}, "it is for another name"),
        (distrust(23), {}, r"not accepted: of another kind\."),
        (ssl.SSLError(1, "no shared cipher"), {}, "TLS handshake fails: no shared cipher"),
        (ssl.SSLError(1, "wrong version"), {"is_other_scheme": True}, r"speaks TLS\. Use wss://"),
        (HandshakeError("", "it says nothing"), {}, "no HTTP response: it says nothing"),
        (HandshakeError("101 Switching Protocols", "lacks it"), {}, "changes the headers .*lacks"),
        (HandshakeError("407 Proxy Authentication Required"), {}, "--proxy http://USER"),
        (HandshakeError("401 Unauthorized"), {}, "--cookie NAME=VALUE"),
        (HandshakeError("501 No", "run x"), {}, r"\(run x\): the server has no WebSockets"),
        (HandshakeError("502 Bad Gateway"), {}, "cannot reach the server behind it"),
        (HandshakeError("503 Service Unavailable"), {}, "max_connections"),
        (HandshakeError("504 Gateway Timeout"), {}, r"Call ws\.accept\(\) first"),
        (HandshakeError("500 Oh"), {"reads_upgrade": True}, "application fails: 500 Oh"),
        (HandshakeError("404 No"), {"reads_upgrade": True}, "Correct the path /chat"),
        (HandshakeError("404 No", "<p>a page"), {}, r"is 404 No, as to a plain .* at /chat or"),
        (HandshakeError("400 No", "or\x1b[1m"), {}, r"of the server is 400 No \(or\\x1b\[1m\)"),
        (HandshakeError("400 No", headers=[("Server", "mine")]), {}, "The answer of mine is 400"),
        (
            HandshakeError("302 Found", headers=[("Location", "https://a.example/chat")]),
            {},
            r"redirects to wss://a\.example/chat\. .*Use this URL\.\Z",
        ),
        (
            HandshakeError("302 Found", headers=[("Location", "/login")]),
            {},
            r"redirects to ws://a\.example/login\. .*login page",
        ),
        (
            HandshakeError("302 Found", headers=[("Location", "ftp://a.example/")]),
            {},
            "redirects: .*'ftp://a.example/' is not the URL of a WebSocket",
        ),
    ],
)
def test_a_failure_has_one_explanation(error, others, explanation):
    (said,) = diagnose(failed(error, **others))
    assert re.search(explanation, said), said


def test_two_different_refusals_hint_at_the_host():
    refusals = {"browser_error": REFUSED, "plain_error": HandshakeError("400 Bad Request")}
    (said,) = diagnose(facts("ws://a.example/chat", **refusals))
    assert "403 Forbidden, and without an Origin 400 Bad Request. Perhaps a proxy changes" in said


def test_a_port_without_tls_is_explained():
    error = ssl.SSLError(1, "wrong version number")
    (said,) = diagnose(failed(error, "wss://a.example/", is_other_scheme=True))
    assert said.startswith("Port 443 does not speak TLS. Use ws://")


@pytest.mark.parametrize(
    ("others", "explanation"),
    [
        ({"refused_header": "User-Agent"}, "refuses User-Agent: 403 Forbidden"),
        ({"refused_header": ""}, "refuses the headers of browsers: 403"),
        (
            {"refused_header": "Origin", "origin": "https://b.example"},
            r'allowed_origins=\["self", "https://b\.example"\]',
        ),
        ({"refused_header": "Origin"}, "changes the header Host: .*or the option|Or the option"),
        (
            {"refused_header": "Origin", "accepted_origin": "http://a.example:8443"},
            r"own origin\. The proxy must set X-Forwarded-Proto to https",
        ),
        (
            {"refused_header": "Origin", "accepted_origin": "https://a.example"},
            r"own origin\. The proxy must forward the header Host with the port.*http_host;'\.\Z",
        ),
        (
            {"refused_header": "Origin", "accepted_origin": "http://a.example"},
            "Host with the port.* X-Forwarded-Proto",
        ),
    ],
)
def test_a_refusal_of_browsers_alone_is_explained(others, explanation):
    (said,) = diagnose(
        facts("wss://a.example:8443/chat", browser_error=REFUSED, **{**FINE, **others})
    )
    assert re.search(explanation, said), said


@pytest.mark.parametrize(
    ("others", "explanation"),
    [
        ({"plain_error": REFUSED}, "Requests without the headers of browsers are refused: 403"),
        ({"extensions": "", "reads_extensions": False}, "removes .*Sec-WebSocket-Extensions"),
        ({"seconds_to_open": 3.1}, r"The 101 takes 3\.1 seconds"),
        ({"seconds_to_pong": 2.5}, r"A Pong takes 2\.5 seconds: a proxy buffers"),
        ({"seconds_to_pong": None}, "no Pong: a proxy buffers data"),
        ({"seconds_to_pong": None, "close_code": 1006}, "lost after the 101"),
        ({"silence": 60.02, "close_code": 1006}, r"lost after 60\.0 seconds .*ping_interval"),
        ({"close_code": 1011}, "The server closes with 1011"),
    ],
)
def test_a_problem_of_an_open_websocket_is_explained(others, explanation):
    (said,) = diagnose(facts(**{**FINE, **others}))
    assert re.search(explanation, said), said


def test_each_problem_is_explained():
    said = diagnose(
        facts(
            browser_error=REFUSED,
            refused_header="Origin",
            seconds_to_pong=0.1,
            silence=5.0,
            close_code=1006,
        )
    )
    assert [each.split()[0] for each in said] == ["Pages", "The"]


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ({}, r"add --idle 70\.\Z"),
        ({"idle": 70.0}, r"It stayed open for 70 seconds\.\Z"),
        ({"extensions": ""}, "does not compress messages"),
        ({"close_code": 4001, "close_reason": "not you"}, r"closed it with 4001 not you\.\Z"),
        ({"seconds_to_pong": None, "close_code": 1000}, r"open after 12 ms\. .* with 1000\.\Z"),
    ],
)
def test_a_websocket_without_problems_is_described(others, sentence):
    observed = facts(**{**FINE, **others})
    assert diagnose(observed) == []
    assert re.match("The WebSocket works: open after 12 ms", summary(observed))
    assert re.search(sentence, summary(observed))
