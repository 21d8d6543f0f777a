"""Which values options may have, and whose hold when several have a say."""

import copy
import pickle
import re

import pytest
from gevent.pywsgi import WSGIServer
from werkzeug.middleware.proxy_fix import ProxyFix

from geventws import WebSocketHandler, WebSocketMiddleware
from geventws.options import Options
from geventws.server.configuration import combine_options, take_options
from tests.support.apps import site
from tests.support.client import TEXT, RawClient, frame, request


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_message_size": 0},
        {"max_message_size": 1 << 64},
        {"max_queued_messages": 1.5},
        {"max_queued_bytes": -1},
        {"max_send_buffer": "1"},
        {"send_timeout": 0},
        {"close_timeout": None},
        {"ping_interval": float("inf")},
        {"ping_timeout": float("nan")},
        {"handshake_timeout": 1e300},
        {"max_queued_messages": True},
        {"accept_after": True},
        {"allowed_origins": ["example.com"]},
        {"allowed_origins": [None]},
        {"ping_interval": 0},
        {"ping_timeout": None},
        {"close_timeout": -1},
        {"trusted_proxies": ["proxy.example"]},
        {"subprotocols": ["a b"]},
    ],
)
def test_a_wrong_value_is_refused_at_once(wrong):
    with pytest.raises(ValueError, match=r"must be|cannot be|does not appear|not an origin"):
        Options(**wrong)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a.example", "https://a.example"),
        ("localhost:5173", "http://localhost:5173"),
        ("localhost:*", "http://localhost:*"),
        ("*.a.example", "https://*.a.example"),
        ("https://*.a.example/", "https://*.a.example"),
        ("https://*.a.example:443", "https://*.a.example"),
        ("http://m\xfcnchen.example", "http://xn--mnchen-3ya.example"),
        ("a.example/chat", "https://a.example"),
        ("https://", "https://example.com"),
        ("https://a example", "https://example.com"),
        ("http://a.example:port", "https://example.com"),
    ],
)
def test_an_origin_that_no_page_has_is_refused_with_what_may_be_meant(written, meant):
    with pytest.raises(ValueError, match=re.escape(f"such as '{meant}'")):
        Options(allowed_origins=[written])
    Options(allowed_origins=[meant])


@pytest.mark.parametrize(
    "origin", ["null", "*", "file://", "http://[::1]:*", "app://-", "WSS://A/"]
)
def test_an_unusual_origin_that_a_page_can_have_is_allowed(origin):
    assert Options(allowed_origins=[origin]).allowed_origins == (origin,)


def test_the_log_has_the_option_that_lets_a_refused_page_in(serve, caplog):
    server = serve(site)
    with server.client() as client:
        client.send(request(headers=[("Origin", "http://localhost:5173")]))
        assert client.read_head() == "403"
    option = 'allowed_origins=["self", "http://localhost:5173"]'
    assert f"{option} (with the command geventws --allowed-origins self," in caplog.text
    assert "in Django the setting CSRF_TRUSTED_ORIGINS" in caplog.text
    server = serve(site, allowed_origins=["self", "http://localhost:5173"])
    with server.client().open(headers=[("Origin", "http://localhost:5173")]) as client:
        client.finish()


@pytest.mark.parametrize(
    "origin", ["null", "https://", "x" * 300, 'https://a",b.example', "https://\xfc.example"]
)
def test_the_log_repeats_no_origin_that_is_none(serve, caplog, origin):
    with serve(site).client() as client:
        client.send(request(headers=[("Origin", origin)]))
        assert client.read_head() == "403"
    assert "If you trust the Origin, add it to allowed_origins." in caplog.text


def test_a_wrong_attribute_of_a_handler_is_refused_when_its_class_is_made():
    with pytest.raises(ValueError, match="accept_after must be a positive number"):
        type("Handler", (WebSocketHandler,), {"accept_after": "3"})


@pytest.mark.parametrize("name", ["allowed_origins", "trusted_proxies", "subprotocols"])
def test_one_string_is_not_a_list_of_strings(name):
    with pytest.raises(TypeError, match=name):
        Options(**{name: "https://example.com"})


@pytest.mark.parametrize("wrong", [None, "deflate", 6])
def test_compression_is_a_switch_or_a_deflate(wrong):
    with pytest.raises(TypeError, match="compression"):
        Options(compression=wrong)


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="max_size"):
        Options(max_size=1)


def test_options_are_taken_out_of_other_keywords():
    keywords = {"max_message_size": 5, "backlog": 7}
    assert take_options(keywords) == {"max_message_size": 5}
    assert keywords == {"backlog": 7}


def test_keywords_override_the_attributes_of_a_class():
    class Handler:
        max_message_size = 5
        subprotocols = ("chat",)

    options = combine_options(Handler, {"max_message_size": 6})
    assert (options.max_message_size, options.subprotocols) == (6, ("chat",))


# ------------------------------------------------- the application's and the server's


class Handler(WebSocketHandler):
    """A handler with options."""

    max_message_size = 7
    subprotocols = ("server",)


@pytest.fixture(params=["server", "handler", "middleware"])
def serve_with_options(request, serve):
    """Serve an application, with a maximum of 7 and the subprotocol "server" at the server."""
    servers = []

    def start(application):
        if request.param == "server":
            return serve(application, max_message_size=7, subprotocols=("server",)).client()
        ours = {"handler_class": Handler}
        if request.param == "middleware":
            application = WebSocketMiddleware(
                application, max_message_size=7, subprotocols=("server",)
            )
            ours = {}
        servers.append(WSGIServer(("127.0.0.1", 0), application, log=None, **ours))
        servers[0].start()
        return RawClient(servers[0].address)

    yield start
    for server in servers:
        server.stop(1)


def refuses(client, size, subprotocol):
    """Whether a message of that size is too big, and one that is shorter is not."""
    with client:
        client.open(headers=[("Sec-WebSocket-Protocol", "server, application")])
        assert client.headers["sec-websocket-protocol"] == subprotocol
        client.send(frame(TEXT, "x" * (size - 1)) + frame(TEXT, "x" * size))
        assert client.read_frame() == (TEXT, b"x" * (size - 1))
        return client.read_close()[0] == 1009


def test_the_options_of_the_server_hold_where_the_application_has_none(serve_with_options, caplog):
    assert refuses(serve_with_options(site), 8, "server")
    assert caplog.records == []


def test_the_options_of_the_application_hold_and_the_log_says_so(serve_with_options, caplog):
    wrapped = WebSocketMiddleware(site, max_message_size=5, ping_interval=9)
    assert refuses(serve_with_options(wrapped), 6, "server")
    assert [record.getMessage() for record in caplog.records] == [
        "The application sets max_message_size=5, the server sets 7:"
        " the application's value is used"
    ]


def test_options_that_other_middleware_hides_are_a_warning(serve_with_options, caplog):
    wrapped = WebSocketMiddleware(site, max_message_size=5)
    client = serve_with_options(ProxyFix(wrapped))
    assert refuses(client, 8, "server")
    [record] = caplog.records
    assert "does not use the option max_message_size of the application" in record.getMessage()


# ---------------------------------------------------------------------- wrong values


def test_a_star_of_the_application_is_no_reason_for_a_warning(serve_with_options, caplog):
    client = serve_with_options(WebSocketMiddleware(site, allowed_origins="*"))
    with client.open(headers=[("Origin", "https://elsewhere.example")]):
        assert caplog.text == ""


@pytest.mark.parametrize("name", ["allowed_origins", "trusted_proxies", "subprotocols"])
def test_a_list_of_any_kind_is_kept_as_it_was(name):
    value = {"allowed_origins": "https://a.example", "trusted_proxies": "127.0.0.1"}.get(name, "a")
    given = [value]
    options = Options(**{name: iter(given)})
    kept = Options(**{name: given})
    given.append("changed later")
    assert getattr(options, name) == getattr(kept, name) == (value,)
    assert hash(kept)


@pytest.mark.parametrize("name", ["allowed_origins", "trusted_proxies"])
def test_none_for_a_list_is_refused_in_words(name):
    with pytest.raises(TypeError, match=f'{name} must be a list of strings, or "\\*", not None'):
        Options(**{name: None})


def test_a_misspelled_option_is_named_with_a_similar_one():
    with pytest.raises(TypeError, match="'max_queued_message'; did you mean 'max_queued_message"):
        WebSocketMiddleware(site, max_queued_message=3)


def test_a_worker_with_an_invalid_option_is_refused_when_its_class_is_made():
    geventws = pytest.importorskip("geventws")
    with pytest.raises(ValueError, match="max_message_size must be a positive integer"):
        type("Worker", (geventws.Worker,), {"websocket_options": {"max_message_size": "x"}})


def test_an_attribute_options_of_another_server_class_is_left_alone():
    class Server(WSGIServer):
        options = "of this class"

    server = Server(("127.0.0.1", 0), site, log=None, handler_class=Handler)
    server.start()
    try:
        assert refuses(RawClient(server.address), 8, "server")
        assert server.options == "of this class"
    finally:
        server.stop(1)


class PicklableJSON:
    def dumps(self, value):
        return repr(value)

    def loads(self, text):
        return text


@pytest.mark.parametrize("duplicate", [copy.copy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_of_options_have_what_follows_from_them(duplicate):
    options = Options(ping_interval=3, json=PicklableJSON)
    copied = duplicate(options)
    assert copied == options
    assert copied.check_interval == 3
    assert copied.compression_parameters == options.compression_parameters is not None
