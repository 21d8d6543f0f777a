"""The opening handshake, sans I/O: an environ in, headers or a refusal out."""

import time

import pytest

from geventws import Deflate, HandshakeError
from geventws.options import Options
from geventws.protocol.origin import request_origin
from geventws.protocol.server_handshake import (
    accept_key,
    check_request,
    choose_extension,
    choose_subprotocol,
    ignored_upgrade,
    is_websocket_request,
    response_headers,
    unavailable,
)
from tests.support.client import ACCEPT, KEY


def environ(**changes):
    """A good request, with some of its variables changed; None removes one."""
    request = {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "example.com",
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_SEC_WEBSOCKET_KEY": KEY,
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        **changes,
    }
    return {name: value for name, value in request.items() if value is not None}


def check(environ, options):
    check_request(environ, options.allowed_origins, options.trusted_proxies)


def refusal(options=None, **changes):
    with pytest.raises(HandshakeError) as caught:
        check(environ(**changes), options or Options())
    return caught.value


def test_the_rfcs_key_has_the_rfcs_answer():
    assert accept_key(KEY) == ACCEPT


def test_a_request_is_refused_though_the_same_one_but_for_a_value_was_accepted():
    proxied = {
        "HTTP_ORIGIN": "https://example.com",
        "HTTP_X_FORWARDED_PROTO": "https",
        "HTTP_SEC_WEBSOCKET_EXTENSIONS": "permessage-deflate",
        "HTTP_SEC_WEBSOCKET_PROTOCOL": "chat",
        "REMOTE_ADDR": "10.0.0.1",
    }
    options = Options(trusted_proxies=["10.0.0.1"])
    check(environ(**proxied), options)
    for name, value, code in [
        ("HTTP_ORIGIN", "http://example.com", 403),
        ("HTTP_HOST", "example.net", 403),
        ("HTTP_HOST", None, 400),
        ("HTTP_X_FORWARDED_PROTO", None, 403),
        ("HTTP_X_FORWARDED_HOST", "example.net", 403),
        ("REMOTE_ADDR", "10.0.0.2", 403),
        ("HTTP_SEC_WEBSOCKET_VERSION", "8", 426),
        ("HTTP_SEC_WEBSOCKET_VERSION", "\xa013", 426),
        ("HTTP_SEC_WEBSOCKET_KEY", "short", 400),
        ("HTTP_SEC_WEBSOCKET_KEY", KEY + "\x85", 400),
        ("HTTP_SEC_WEBSOCKET_EXTENSIONS", ";", 400),
        ("HTTP_SEC_WEBSOCKET_PROTOCOL", "a b", 400),
        ("CONTENT_LENGTH", "1", 400),
        ("HTTP_TRANSFER_ENCODING", "chunked", 400),
        ("HTTP_CONNECTION", "Upgrade, " * 200, 400),
        ("HTTP_UPGRADE", "websocket, " * 200, 400),
    ]:
        assert refusal(options, **{**proxied, name: value}).status_code == code
    refusal(Options(), **proxied)
    refusal(Options(allowed_origins=["https://example.net"], trusted_proxies="*"), **proxied)


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "h2c, websocket"])
def test_a_websocket_request_is_recognised(upgrade):
    assert is_websocket_request(environ(HTTP_UPGRADE=upgrade))


@pytest.mark.parametrize("upgrade", [None, "h2c", "websockets", ""])
def test_other_requests_are_none_of_ours(upgrade):
    other = environ(HTTP_UPGRADE=upgrade)
    assert not is_websocket_request(other)
    assert not ignored_upgrade(other)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"SERVER_PROTOCOL": "HTTP/1.0"}, "proxy_http_version 1.1"),
        ({"SERVER_PROTOCOL": "HTTP/0.9"}, "HTTP/0.9"),
        ({"REQUEST_METHOD": "POST"}, "GET"),
        ({"HTTP_CONNECTION": None}, "Connection: Upgrade"),
        ({"HTTP_CONNECTION": "close"}, "Connection: Upgrade"),
        ({"HTTP_CONNECTION": "upgrades" + ",a" * 508}, "Connection: Upgrade"),
    ],
)
def test_a_request_that_cannot_be_upgraded_is_a_plain_one_and_it_is_known_why(changes, word):
    plain = environ(**changes)
    assert not is_websocket_request(plain)
    assert word in ignored_upgrade(plain)
    assert not ignored_upgrade(environ())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"HTTP_CONNECTION": "keep-alive, Upgrade"},
        {"HTTP_CONNECTION": "UPGRADE"},
        {"HTTP_SEC_WEBSOCKET_KEY": f" {KEY} "},
        {"HTTP_SEC_WEBSOCKET_PROTOCOL": "a, b"},
        {"CONTENT_LENGTH": "0"},
    ],
)
def test_a_good_request_passes(changes):
    check(environ(**changes), Options())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"HTTP_HOST": None}, "Host"),
        ({"CONTENT_LENGTH": "5"}, "no body"),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, "no body"),
        ({"HTTP_SEC_WEBSOCKET_KEY": None}, "Sec-WebSocket-Key"),
        ({"HTTP_SEC_WEBSOCKET_KEY": ""}, "Sec-WebSocket-Key"),
        ({"HTTP_SEC_WEBSOCKET_KEY": KEY[:-4]}, "Sec-WebSocket-Key"),
        ({"HTTP_SEC_WEBSOCKET_KEY": KEY[:-2] + "é="}, "Sec-WebSocket-Key"),
        ({"HTTP_SEC_WEBSOCKET_KEY": "!" * 24}, "Sec-WebSocket-Key"),
        ({"HTTP_SEC_WEBSOCKET_KEY": f"{KEY},{KEY}"}, "Sec-WebSocket-Key"),
        ({"HTTP_SEC_WEBSOCKET_PROTOCOL": "a b"}, "Sec-WebSocket-Protocol"),
        ({"HTTP_SEC_WEBSOCKET_EXTENSIONS": "a b"}, "Sec-WebSocket-Extensions"),
    ],
)
def test_a_malformed_request_is_a_400_that_says_what_is_wrong(changes, word):
    refused = refusal(**changes)
    assert refused.status == "400 Bad Request"
    assert word in refused.body.decode()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTP_HOST", "a" * 1025),
        ("HTTP_ORIGIN", "http://" + "a" * 1018),
        ("HTTP_CONNECTION", "upgrade" + ",a" * 509),
        ("HTTP_UPGRADE", "websocket" + ",a" * 508),
        ("HTTP_SEC_WEBSOCKET_EXTENSIONS", "x" + ";a" * 512),
        ("HTTP_SEC_WEBSOCKET_PROTOCOL", "a" * 16385),
        ("HTTP_SEC_WEBSOCKET_PROTOCOL", "a" + ",a" * 100),
    ],
)
@pytest.mark.parametrize("allowed_origins", [("self",), "*"])
def test_what_is_longer_than_any_client_sends_is_a_400(variable, value, allowed_origins):
    options = Options(allowed_origins=allowed_origins)
    assert is_websocket_request(environ(**{variable: value}))
    refused = refusal(options, **{variable: value})
    assert refused.status == "400 Bad Request"
    assert variable.removeprefix("HTTP_").replace("_", "-") in refused.body.decode().upper()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTP_HOST", "a" * 1024),
        ("HTTP_CONNECTION", "upgrade" + ",a" * 508 + ","),
        ("HTTP_SEC_WEBSOCKET_EXTENSIONS", "x" + ";a" * 511 + " "),
        ("HTTP_SEC_WEBSOCKET_PROTOCOL", "a" * 16384),
        ("HTTP_SEC_WEBSOCKET_PROTOCOL", "a" + ",a" * 99),
    ],
)
def test_what_is_as_long_as_it_may_be_passes(variable, value):
    check(environ(**{variable: value}), Options())


def test_a_long_list_of_other_upgrades_is_none_of_ours():
    assert not is_websocket_request(environ(HTTP_UPGRADE="h2c" + ",a" * 2000))


def test_the_origin_is_checked_before_any_list_is_parsed():
    refused = refusal(
        HTTP_ORIGIN="http://evil.example",
        HTTP_SEC_WEBSOCKET_EXTENSIONS=";",
        HTTP_SEC_WEBSOCKET_PROTOCOL="a b",
    )
    assert refused.status == "403 Forbidden"


@pytest.mark.parametrize("version", [None, "", "8", "12", "14", "013", "13, 8"])
def test_another_version_is_a_426_that_names_ours(version):
    refused = refusal(HTTP_SEC_WEBSOCKET_VERSION=version)
    assert refused.status == "426 Upgrade Required"
    assert ("Sec-WebSocket-Version", "13") in refused.headers
    assert ("Upgrade", "websocket") in refused.headers


# --------------------------------------------------------------------- Origin


@pytest.mark.parametrize(
    ("origin", "changes"),
    [
        ("http://example.com", {}),
        ("HTTP://EXAMPLE.COM", {}),
        ("http://example.com:80", {}),
        ("http://example.com:8080", {"HTTP_HOST": "example.com:8080"}),
        ("https://example.com", {"wsgi.url_scheme": "https"}),
        ("https://example.com", {"wsgi.url_scheme": "https", "HTTP_HOST": "example.com:443"}),
        ("http://[::1]:8000", {"HTTP_HOST": "[::1]:8000"}),
        ("ws://example.com:8080", {"HTTP_HOST": "example.com:8080"}),  # ws4py's client
        ("wss://example.com", {"wsgi.url_scheme": "https"}),
        (None, {}),
    ],
)
def test_the_servers_own_pages_may_connect(origin, changes):
    check(environ(HTTP_ORIGIN=origin, **changes), Options())


@pytest.mark.parametrize(
    ("origin", "changes"),
    [
        ("https://example.com", {}),
        ("wss://example.com", {}),
        ("http://example.com:8080", {}),
        ("http://evil.example", {}),
        ("http://example.com.evil.example", {}),
        ("http://sub.example.com", {}),
        ("null", {}),
        ("", {}),
        ("http://example.com@evil.example", {}),
        ("http://[example.com", {}),
        ("http://example.com:port", {}),
        ("http://[example.com", {"HTTP_HOST": "[example.org"}),
        ("http://evil.example", {"HTTP_X_FORWARDED_HOST": "evil.example"}),
    ],
)
def test_other_pages_may_not(origin, changes):
    refused = refusal(HTTP_ORIGIN=origin, **changes)
    assert refused.status == "403 Forbidden"


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ("*", "http://evil.example"),
        (["*"], "null"),
        (["https://app.example"], "https://app.example:443"),
        (["https://APP.example:443"], "https://app.example"),
        (["https://*.app.example"], "https://a.b.app.example"),
        (["https://app.example:*"], "https://app.example:8443"),
        (["self", "https://app.example"], "http://example.com"),
        (["null"], "null"),
        (["*://*.app.example:*"], "https://a.app.example:8443"),
        (["https://*a*b*.example"], "https://xaxbx.example"),
        (["https://**.example"], "https://x.example"),
    ],
)
def test_pages_that_are_named_may_connect(allowed, origin):
    check(environ(HTTP_ORIGIN=origin), Options(allowed_origins=allowed))


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ([], "http://example.com"),
        (["https://app.example"], "http://app.example"),
        (["https://app.example"], "http://example.com"),
        (["https://*.app.example"], "https://app.example"),
        (["https://*.app.example"], "http://x.app.example"),
        (["https://*.app.example"], "https://evil.example/x.app.example"),
        (["https://app.example"], "https://appXexample"),
        (["https://*a*b*.example"], "https://xbxax.example"),
        (["https://app*app.example"], "https://app.example"),
    ],
)
def test_pages_that_are_not_named_may_not(allowed, origin):
    assert refusal(Options(allowed_origins=allowed), HTTP_ORIGIN=origin).status == "403 Forbidden"


def test_many_stars_take_no_more_time_than_one():
    allowed = Options(allowed_origins=["https://" + "*a" * 30 + "b"])
    started = time.process_time()
    assert refusal(allowed, HTTP_ORIGIN="https://" + "a" * 1000).status == "403 Forbidden"
    assert time.process_time() - started < 1


def test_a_forwarded_host_that_is_too_long_is_nobodys():
    behind = environ(HTTP_X_FORWARDED_HOST="a" * 3000)
    assert request_origin(behind, ["*"]) == ""
    with pytest.raises(HandshakeError, match="403"):
        check({**behind, "HTTP_ORIGIN": "http://["}, Options(trusted_proxies=["*"]))


@pytest.mark.parametrize("proxies", [["127.0.0.1"], ["10.0.0.0/8", "127.0.0.0/8"], ["*"]])
def test_a_trusted_proxy_tells_scheme_and_host(proxies):
    behind = environ(
        HTTP_X_FORWARDED_PROTO="https",
        HTTP_X_FORWARDED_HOST="evil.example, public.example",
    )
    assert request_origin(behind, proxies) == "https://public.example"
    assert request_origin(behind, ["192.0.2.1"]) == "http://example.com"


# ----------------------------------------------------------------- the answer


def test_the_101_has_upgrade_connection_and_the_accept_key():
    assert response_headers(environ()) == [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", ACCEPT),
    ]


def test_the_servers_order_decides_on_the_subprotocol():
    assert choose_subprotocol(["a", "b"], ["b", "a"]) == "b"
    assert choose_subprotocol(["a"], ["A", "aa"]) is None
    assert choose_subprotocol([], ["a"]) is None


def test_a_subprotocol_must_have_been_offered():
    offered = environ(HTTP_SEC_WEBSOCKET_PROTOCOL="chat")
    assert ("Sec-WebSocket-Protocol", "chat") in response_headers(offered, "chat")
    with pytest.raises(ValueError, match="did not offer"):
        response_headers(offered, "cha")


@pytest.mark.parametrize(
    ("compression", "offers", "answer"),
    [
        (None, "permessage-deflate", ""),
        (Deflate(), None, ""),
        (Deflate(), "", ""),
        (Deflate(), "foo", ""),
        (
            Deflate(),
            "foo, permessage-deflate",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
    ],
)
def test_an_extension_needs_both_sides(compression, offers, answer):
    chosen, extension = choose_extension(environ(HTTP_SEC_WEBSOCKET_EXTENSIONS=offers), compression)
    assert chosen == answer
    assert (extension is not None) == bool(answer)
    headers = dict(response_headers(environ(), extensions=chosen))
    assert headers.get("Sec-WebSocket-Extensions", "") == answer


@pytest.mark.parametrize(
    ("client", "compression", "answer"),
    [
        ("Tornado/6.6.1", Deflate(), ""),
        (
            "Tornado/6.6.1",
            Deflate(client_context_takeover=True, server_context_takeover=True),
            "permessage-deflate",
        ),
        (
            "Mozilla/5.0",
            Deflate(),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
    ],
)
def test_compression_with_tornado_needs_context_takeover(client, compression, answer):
    request = environ(
        HTTP_USER_AGENT=client,
        HTTP_SEC_WEBSOCKET_EXTENSIONS="permessage-deflate; client_max_window_bits",
    )
    assert choose_extension(request, compression)[0] == answer


@pytest.mark.parametrize(
    "header",
    [
        ("X-Evil", "a\r\nSet-Cookie: b"),
        ("X-Evil\r\nX", "a"),
        ("", "a"),
        ("X Y", "a"),
        ("X", "snow \u2603"),
        ("Connection", "close"),
        ("sec-websocket-accept", "x"),
        ("Sec-WebSocket-Protocol", "chat"),
        ("Content-Length", "5"),
    ],
)
def test_a_header_that_breaks_the_handshake_is_refused(header):
    with pytest.raises(ValueError, match="header"):
        response_headers(environ(), extra=[header])


def test_other_headers_are_passed_on():
    cookie = ("Set-Cookie", "a=b; Path=/")
    assert response_headers(environ(), extra=[cookie])[-1] == cookie


def test_a_server_that_takes_nobody_just_now_says_when_to_ask_again():
    refused = unavailable("The server is full.")
    assert refused.status == "503 Service Unavailable"
    assert refused.body == b"The server is full.\n"
    assert "Retry-After" in dict(refused.headers)


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("127.0.0.1", ["127.0.0.0/8"]),
        ("::ffff:127.0.0.1", ["127.0.0.1"]),  # the peer of a listener for IPv6 and IPv4
        ("::ffff:127.0.0.1", ["::ffff:0:0/96"]),
        ("::1", ["::1"]),
        ("", ["192.0.2.1"]),  # the peer of a unix socket
        ("", []),
        ("192.0.2.1", ["*"]),
    ],
)
def test_a_trusted_proxy_is_recognised_by_its_address(address, trusted):
    behind = environ(REMOTE_ADDR=address, HTTP_X_FORWARDED_PROTO="https")
    assert request_origin(behind, trusted).startswith("https://")


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("127.0.0.1", []),
        ("::ffff:192.0.2.1", ["192.0.2.2"]),
        ("::1", ["127.0.0.1"]),
        ("nobody", ["127.0.0.1"]),
    ],
)
def test_another_peer_is_not_a_trusted_proxy(address, trusted):
    behind = environ(REMOTE_ADDR=address, HTTP_X_FORWARDED_PROTO="https")
    assert request_origin(behind, trusted).startswith("http://")
