"""``geventws.compat``: code for gevent-websocket runs as it is."""

import importlib
import io
import re
import socket
import subprocess
import sys

import bottle
import gevent
import pytest
from gevent.event import AsyncResult, Event
from gevent.pywsgi import WSGIServer

import geventws
from geventws.compat import install_as_geventwebsocket
from geventws.compat.handler import WebSocketHandler
from geventws.options import _MAY_BE_NONE
from tests.support.client import (
    BINARY,
    PING,
    PONG,
    TEXT,
    RawClient,
    close_frame,
    frame,
    request,
)
from tests.support.servers import ROOT, serving, wait_until

SECONDS = 10  # nothing here takes so long
#: The modules of gevent-websocket 0.10.1 and their names.
NAMES = {
    "": "VERSION Resource WebSocketApplication WebSocketError WebSocketServer get_version",
    "._compat": "PY2 PY3 iteritems range_type string_types text_type",
    ".exceptions": "FrameTooLargeException ProtocolError WebSocketError",
    ".gunicorn.workers": "GeventWebSocketWorker",
    ".handler": "Client Stream WSGIHandler WebSocket WebSocketHandler create_logger",
    ".logging": "create_logger",
    ".protocols.base": "BaseProtocol",
    ".protocols.wamp": "BaseProtocol WampProtocol export_rpc",
    ".resource": "BaseProtocol OrderedDict Resource WebSocketApplication WebSocketError",
    ".server": "WSGIServer WebSocketHandler WebSocketServer create_logger",
    ".utf8validator": "UTF8_ACCEPT UTF8_REJECT Utf8Validator",
    ".utils": "get_version",
    ".websocket": "FrameTooLargeException Header MSG_ALREADY_CLOSED MSG_CLOSED MSG_SOCKET_DEAD"
    " ProtocolError Stream Utf8Validator WebSocket WebSocketError",
}


def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] == "geventwebsocket"]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def installed():
    install_as_geventwebsocket()
    yield
    forget()


@pytest.fixture
def start():
    """``start(app, **options)``: geventwebsocket's server, stopped after the test."""
    from geventwebsocket import WebSocketServer

    servers = []

    def start_one(app, **options):
        server = WebSocketServer(("127.0.0.1", 0), app, log=None, **options)
        servers.append(server)
        server.start()
        return server

    yield start_one
    for server in servers:
        server.stop(1)


@pytest.fixture
def run(start):
    """``run(view)``: a connected client, and what the view returns."""
    clients = []

    def run_one(view, path="/", headers=(), **options):
        result = AsyncResult()

        def app(environ, start_response):
            try:
                result.set(view(environ["wsgi.websocket"]))
            except Exception as problem:
                result.set_exception(problem)
                raise
            return []

        client = RawClient(start(app, **options).address)
        clients.append(client)
        return client.open(path, headers), result

    yield run_one
    for client in clients:
        client.sock.close()


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


# ------------------------------------------------------------------------ names


@pytest.mark.parametrize("module", NAMES)
def test_a_module_has_all_the_names_of_gevent_websocket(module):
    imported = importlib.import_module(f"geventwebsocket{module}")
    for name in NAMES[module].split():
        exec(f"from geventwebsocket{module} import {name}", {})
        assert getattr(imported, name) is not None
    assert not hasattr(imported, "no_such_name")
    assert imported.__file__.endswith(".py")


def test_a_star_import_gives_the_five_public_names_and_hides_no_module():
    names = {}
    exec("from geventwebsocket import *", names)
    public = {"Resource", "WebSocketApplication", "WebSocketError", "WebSocketServer"}
    assert names.keys() - {"__builtins__"} == {*public, "get_version"}


def test_a_name_that_is_replaced_in_a_module_is_replaced_for_geventws(start, monkeypatch):
    import geventwebsocket.handler

    class Client(geventwebsocket.handler.Client):
        nickname = "nobody"

    monkeypatch.setattr(geventwebsocket.handler, "Client", Client)
    with RawClient(
        start(
            lambda environ, start_response: environ["wsgi.websocket"].send(
                environ["wsgi.websocket"].handler.active_client.nickname
            )
        ).address
    ).open() as client:
        assert client.read_frame() == (TEXT, b"nobody")


def test_the_version_is_the_one_it_takes_the_place_of():
    import geventwebsocket
    import geventwebsocket.utils

    assert geventwebsocket.VERSION == (0, 10, 1, "final", 0)
    assert geventwebsocket.get_version() == geventwebsocket.utils.get_version() == "0.10.1"
    assert geventwebsocket.get_version((1, 2, 0, "beta", 3)) == "1.2b3"


def test_the_exceptions_are_those_of_geventws():
    from geventwebsocket.exceptions import FrameTooLargeException, ProtocolError, WebSocketError

    assert issubclass(geventws.ConnectionClosed, WebSocketError)
    assert issubclass(FrameTooLargeException, ProtocolError)
    assert issubclass(WebSocketError, OSError)


def test_an_installed_gevent_websocket_is_not_hidden_by_accident(tmp_path):
    package = tmp_path / "geventwebsocket"
    package.mkdir()
    (package / "__init__.py").write_text("WHOSE = 'the real one'\n")
    install = "from geventws.compat import install_as_geventwebsocket as install"
    for code, expected in [
        (f"{install}; install()", "RuntimeError: gevent-websocket is installed"),
        (f"{install}; import geventwebsocket; install()", "RuntimeError: gevent-websocket is"),
        (
            f"{install}; install(replace_installed=True); import geventwebsocket;"
            " print(geventwebsocket.get_version())",
            "0.10.1\n",
        ),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert expected in done.stdout + done.stderr


def test_installing_twice_does_no_harm_and_wrong_options_are_refused():
    install_as_geventwebsocket()
    with pytest.raises(TypeError, match="no_such_option"):
        install_as_geventwebsocket(no_such_option=1)


# ---------------------------------------------------------------- the WebSocket


def test_the_101_is_sent_before_the_application_runs(start):
    begun, go_on = Event(), Event()

    def app(environ, start_response):
        begun.set()
        go_on.wait(SECONDS)
        return []

    with RawClient(start(app).address).open() as client:
        assert begun.wait(SECONDS)
        go_on.set()
        assert client.read_close() == (1000, "")


def test_binary_is_bytearray_and_text_is_str(run):
    client, result = run(lambda ws: [ws.receive(), ws.receive(), ws.receive()])
    client.send(frame(TEXT, "grüß dich") + frame(BINARY, b"\0\xff") + close_frame(1000))
    text, binary, end = result.get(timeout=SECONDS)
    assert (text, binary, end) == ("grüß dich", b"\0\xff", None)
    assert type(binary) is bytearray


def test_the_end_is_none_once_and_then_everything_raises(run):
    from geventwebsocket import WebSocketError
    from geventwebsocket.websocket import MSG_ALREADY_CLOSED, MSG_SOCKET_DEAD

    def view(ws):
        assert ws
        assert not ws.closed
        assert ws.receive() is None
        assert ws.closed
        with pytest.raises(WebSocketError, match=MSG_ALREADY_CLOSED):
            ws.receive()
        for message in ("x", b"x", None):
            with pytest.raises(WebSocketError, match=MSG_SOCKET_DEAD):
                ws.send(message)
        with pytest.raises(WebSocketError, match=MSG_ALREADY_CLOSED):
            ws.send_frame("x", ws.OPCODE_TEXT)
        ws.close()
        return ws.environ, ws.path, ws.origin, ws.version, ws.protocol, ws.stream, ws.raw_write

    client, result = run(view)
    client.send(close_frame(1000))
    assert result.get(timeout=SECONDS) == (None,) * 7


def test_the_request_is_known_while_it_is_open(run):
    def view(ws):
        return ws.path, ws.origin, ws.version, ws.protocol, ws.environ["wsgi.websocket_version"]

    headers = [("Origin", "http://test.example"), ("Sec-WebSocket-Protocol", "a, b")]
    _, result = run(view, "/some/path?query", headers)
    assert result.get(timeout=SECONDS) == ("/some/path", "http://test.example", "13", "a, b", "13")


def test_what_is_sent_as_what(run):
    def view(ws):
        ws.send("text")
        ws.send(b"bytes")
        ws.send(bytearray(b"bytearray"))
        ws.send(b"text in bytes", binary=False)
        ws.send("bytes in text", binary=True)
        ws.send_frame("frame", ws.OPCODE_TEXT)
        ws.send_frame(b"ping", ws.OPCODE_PING)
        ws.send_frame(b"pong", ws.OPCODE_PONG)
        ws.send_frame("bye", ws.OPCODE_CLOSE)

    client, _ = run(view)
    for expected in [
        (TEXT, b"text"),
        (BINARY, b"bytes"),
        (BINARY, b"bytearray"),
        (TEXT, b"text in bytes"),
        (BINARY, b"bytes in text"),
        (TEXT, b"frame"),
        (PING, b"ping"),
        (PONG, b"pong"),
    ]:
        assert client.read_frame() == expected
    assert client.read_close() == (1000, "bye")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), (1000, "")),
        ((4001, "not you"), (4001, "not you")),
        ((1001, b"bytes"), (1001, "bytes")),
        ((1005, None), (1000, "")),
        ((1000, "ü" * 100), (1000, "ü" * 61)),
    ],
)
def test_close_sends_its_code_and_reason_and_does_not_wait(run, arguments, expected):
    def view(ws):
        with gevent.Timeout(1):
            ws.close(*arguments)
        return ws.closed

    client, result = run(view)
    assert result.get(timeout=SECONDS) is True
    assert client.read_close() == expected
    client.send(close_frame(1000))


def test_closed_turns_true_though_nobody_receives_but_not_before_a_receiver_has_got_all(run):
    def view(ws):
        while not ws.closed:  # Heroku's tutorial
            gevent.sleep(0.001)

    client, result = run(view)
    client.send(frame(TEXT, "unread") + close_frame(1000))
    result.get(timeout=SECONDS)

    def careful(ws):
        heard = []
        while not ws.closed:
            heard.append(ws.receive())
            gevent.sleep(0.01)
        return heard

    client, result = run(careful)
    client.send(frame(TEXT, "1") + frame(TEXT, "2") + frame(TEXT, "3") + close_frame(1000))
    heard = result.get(timeout=SECONDS)
    assert [message for message in heard if message is not None] == ["1", "2", "3"]


def test_raw_write_sends_frames_that_somebody_else_has_made(run):
    from geventwebsocket.websocket import Header

    def view(ws):
        header = Header.encode_header(True, ws.OPCODE_TEXT, b"", 5, 0)
        ws.raw_write(header + b"hello")
        ws.stream.write(header + b"again")
        return ws.stream.handler.socket.fileno(), ws.handler.socket.gettimeout()

    client, result = run(view)
    assert client.read_frame() == (TEXT, b"hello")
    assert client.read_frame() == (TEXT, b"again")
    assert result.get(timeout=SECONDS)[0] > 0


@pytest.mark.parametrize("mask", [b"", b"\1\2\3\4"])
@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_header_is_decoded_as_it_was_encoded(size, mask):
    from geventwebsocket.websocket import Header

    data = Header.encode_header(True, 2, mask, size, Header.RSV0_MASK)
    header = Header.decode_header(io.BytesIO(data))
    assert (header.fin, header.opcode, header.length, header.flags) == (True, 2, size, 0x40)
    assert header.unmask_payload(header.mask_payload(b"hello")) == b"hello"


def test_the_utf8_validator_tells_where_text_ends_to_be_utf8():
    from geventwebsocket.utf8validator import Utf8Validator

    validator = Utf8Validator()
    assert validator.validate("aü".encode()[:2]) == (True, False, 2, 2)
    assert validator.validate("ü".encode()[1:]) == (True, True, 1, 3)
    assert validator.validate(b"x\xff") == (False, False, 1, 4)
    assert validator.validate(b"ok") == (False, False, 0, 4)
    validator.reset()
    assert validator.validate(b"ok") == (True, True, 2, 2)
    assert validator.validate(b"\xed\xa0") == (False, False, 1, 3)  # a surrogate
    validator.reset()
    assert validator.validate(b"\xc3(") == (False, False, 1, 1)


def test_the_utf8_validator_decodes_one_octet_after_the_other():
    from geventwebsocket.utf8validator import UTF8_ACCEPT, UTF8_REJECT, Utf8Validator

    validator = Utf8Validator()
    first, second = (validator.decode(octet) for octet in "ü".encode())
    assert first not in {UTF8_ACCEPT, UTF8_REJECT}
    assert (second, validator.codepoint) == (UTF8_ACCEPT, ord("ü"))
    assert validator.decode(0xFF) == validator.decode(0x20) == UTF8_REJECT


def test_the_private_methods_that_programs_use_exist(run):
    def view(ws):
        assert ws._encode_bytes("ü") == b"\xc3\xbc"
        assert ws._encode_bytes(None) == b""
        assert ws._decode_bytes(b"\xc3\xbc") == "ü"
        assert ws._is_valid_close_code(4000)
        assert not ws._is_valid_close_code(1005)
        header, payload = ws.read_frame()
        assert (header.fin, header.opcode, header.length) == (True, ws.OPCODE_TEXT, 2)
        with pytest.raises(UnicodeDecodeError):
            ws._decode_bytes(b"\xff")
        return payload

    client, result = run(view)
    client.send(frame(TEXT, "hi"))
    assert client.read_close() == (1007, "")
    client.send(close_frame(1007))
    assert result.get(timeout=SECONDS) == b"hi"


# ----------------------------------------------------------------- applications


@pytest.mark.parametrize("fails", [False, True])
def test_the_result_of_the_application_is_closed_also_if_it_fails(start, fails):
    """Django returns connections to its database then."""
    closed = Event()

    class Result:
        def __iter__(self):
            yield b"dropped"
            if fails:
                raise ZeroDivisionError("the view's fault")

        def close(self):
            closed.set()

    with RawClient(start(lambda environ, start_response: Result()).address).open() as client:
        assert client.read_close()[0] == (1011 if fails else 1000)
        assert closed.wait(SECONDS)


def test_a_view_that_returns_none_ends_as_any_other(start, caplog):
    with RawClient(start(lambda environ, start_response: None).address).open() as client:
        assert client.read_close() == (1000, "")
    assert not caplog.records


def test_an_application_gets_open_messages_none_and_close(start):
    from geventwebsocket import Resource, WebSocketApplication

    calls = []
    done = Event()

    class Application(WebSocketApplication):
        def on_open(self):
            calls.append("open")

        def on_message(self, message):
            calls.append(message)

        def on_close(self, reason):
            calls.append(("close", reason))
            done.set()

    with RawClient(start(Resource([("^/ws", Application)])).address).open("/ws") as client:
        client.send(frame(TEXT, "hello"))
        client.finish()
    assert done.wait(SECONDS)
    assert calls == ["open", "hello", None, ("close", None)]


def test_an_application_without_a_handle_of_its_own_needs_no_greenlet(start):
    from geventwebsocket import Resource, WebSocketApplication

    class Echo(WebSocketApplication):
        pass

    class Loop(WebSocketApplication):
        def handle(self):
            super().handle()

    server = start(Resource([("^/echo", Echo), ("^/loop", Loop)]))
    for path, is_detached in (("/echo", True), ("/loop", False)):
        with RawClient(server.address).open(path) as client:
            client.send(frame(BINARY, b"x"))
            assert client.read_frame() == (BINARY, b"x")
            [entry] = server.clients.values()
            assert entry.ws._ws._is_detached == is_detached
            client.finish()
        wait_until(lambda: not server.clients)


def test_an_application_that_closes_gets_no_further_message(start):
    from geventwebsocket import Resource, WebSocketApplication

    calls = []
    done = Event()

    class Application(WebSocketApplication):
        def on_message(self, message):
            calls.append(message)
            self.ws.close()

        def on_close(self, reason):
            done.set()

    with RawClient(start(Resource([("^/", Application)])).address).open() as client:
        client.send(frame(TEXT, "1") + frame(TEXT, "2"))
        assert client.read_close() == (1000, "")
        client.send(close_frame(1000))
        assert done.wait(SECONDS)
    assert calls == ["1"]


def test_the_echo_application_of_the_readme_ends_quietly_and_is_told(start, caplog):
    from geventwebsocket import Resource, WebSocketApplication

    done = Event()

    class Echo(WebSocketApplication):
        def on_message(self, message):
            self.ws.send(message)

        def on_close(self, reason):
            done.set()

    with RawClient(start(Resource({"/": Echo})).address).open() as client:
        client.send(frame(TEXT, "hello"))
        assert client.read_frame() == (TEXT, b"hello")
        client.finish()
    assert done.wait(SECONDS)
    assert not caplog.records


def test_a_resource_sends_plain_requests_and_websockets_of_one_path_to_different_applications(
    start,
):
    from geventwebsocket import Resource, WebSocketApplication

    def page(environ, start_response):
        start_response("200 OK", [("Content-Length", "6")])
        return [b"a page"]

    resource = Resource([("^/$", page), ("^/$", WebSocketApplication)])
    server = start(resource)
    with RawClient(server.address).open("/") as client:
        client.send(frame(TEXT, "echo"))
        assert client.read_frame() == (TEXT, b"echo")
    with RawClient(server.address) as client:
        client.send(request("/", without="Upgrade"))
        assert client.read_response() == ("200", b"a page")
    with pytest.raises(Exception, match="No apps defined"):
        resource({"PATH_INFO": "/nowhere"}, None)


def test_the_subprotocol_of_an_application_is_agreed_on_if_it_is_offered(start):
    from geventwebsocket import Resource, WebSocketApplication
    from geventwebsocket.protocols.base import BaseProtocol

    class Protocol(BaseProtocol):
        PROTOCOL_NAME = "chat"

    class Application(WebSocketApplication):
        protocol_class = Protocol

        def on_open(self):
            self.ws.send(str(self.protocol.handler is self.ws.handler))
            self.ws.send(str(self.protocol.server is server))

    server = start(Resource({"/": Application}))
    for offer, expected in [("x, chat", "chat"), ("chatter", None)]:
        with RawClient(server.address).open("/", [("Sec-WebSocket-Protocol", offer)]) as client:
            assert client.headers.get("sec-websocket-protocol") == expected
            assert client.read_frame() == client.read_frame() == (TEXT, b"True")


def test_the_chat_of_the_readme_knows_its_clients_by_what_it_has_set_on_them(start):
    from geventwebsocket import Resource, WebSocketApplication

    class Chat(WebSocketApplication):
        def on_message(self, message):
            if message is None:
                return
            current = self.ws.handler.active_client
            if message.startswith("I am "):
                current.nickname = message[5:]
                return
            for client in self.ws.handler.server.clients.values():
                client.ws.send(f"{current.nickname}: {message}")

    server = start(Resource({"/": Chat}))
    with RawClient(server.address).open() as ada, RawClient(server.address).open() as bob:
        ada.send(frame(TEXT, "I am Ada") + frame(TEXT, "hello"))
        assert ada.read_frame() == bob.read_frame() == (TEXT, b"Ada: hello")
        assert sorted(client.address for client in server.clients.values()) == sorted(
            client.sock.getsockname() for client in (ada, bob)
        )
        ada.finish()
        bob.send(frame(TEXT, "I am Bob") + frame(TEXT, "bye"))
        assert bob.read_frame() == (TEXT, b"Bob: bye")
        bob.finish()
    assert server.clients == {}


def test_clients_of_a_unix_socket_are_told_apart(tmp_path):
    from geventwebsocket.handler import WebSocketHandler

    addresses = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.send(str(len(server.clients)))
        addresses.append(ws.handler.active_client.address)
        while ws.receive() is not None:
            pass
        return []

    listener = gevent.socket.socket(gevent.socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    server = WSGIServer(listener, app, handler_class=WebSocketHandler, log=None)
    server.start()
    try:
        with (
            RawClient(str(tmp_path / "socket")).open() as ada,
            RawClient(str(tmp_path / "socket")).open() as bob,
        ):
            assert ada.read_frame() == (TEXT, b"1")
            assert bob.read_frame() == (TEXT, b"2")
            ada.finish()
            bob.finish()
    finally:
        server.stop(1)
    assert server.clients == {}


# --------------------------------------------------------------------- handlers


def test_an_overridden_upgrade_may_refuse(start):
    class Handler(WebSocketHandler):
        def upgrade_websocket(self):
            if "HTTP_AUTHORIZATION" not in self.environ:
                self.start_response("401 Unauthorized", [("WWW-Authenticate", "Basic")])
                return ["Who are you?"]
            return super().upgrade_websocket()

    server = start(lambda environ, start_response: [], handler_class=Handler)
    with RawClient(server.address) as client:
        client.send(request("/"))
        assert client.read_response() == ("401", b"Who are you?")
        assert client.headers["www-authenticate"] == "Basic"
    with RawClient(server.address).open("/", [("Authorization", "Basic x")]) as client:
        assert client.read_close() == (1000, "")


def test_the_pre_start_hook_may_make_it_a_plain_request(start):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "5")])
        return [str("wsgi.websocket" in environ).encode()]

    server = start(app, pre_start_hook=lambda handler: handler.environ["PATH_INFO"] == "/plain")
    with RawClient(server.address) as client:
        client.send(request("/plain"))
        assert client.read_response() == ("200", b"False")
    with RawClient(server.address).open("/other") as client:
        assert client.read_close() == (1000, "")


def test_a_request_that_rfc_6455_forbids_is_refused_with_a_body(start):
    with RawClient(start(lambda environ, start_response: []).address) as client:
        client.send(request("/", [("Sec-WebSocket-Key", "not base64!")]))
        status, body = client.read_response()
        assert status == "400"
        assert body == b"The header Sec-WebSocket-Key is not 16 bytes in base64.\n"


def test_options_hold_for_all_handlers(start):
    install_as_geventwebsocket(allowed_origins="*", max_message_size=5)
    try:
        server = start(lambda environ, start_response: environ["wsgi.websocket"].receive() or [])
        with RawClient(server.address).open("/", [("Origin", "https://evil.example")]) as client:
            client.send(frame(TEXT, "123456"))
            assert client.read_close()[0] == 1009
    finally:
        del WebSocketHandler.allowed_origins, WebSocketHandler.max_message_size


def test_the_lines_of_the_documentation_lift_all_limits(start):
    text = (ROOT / "docs" / "migration-gevent-websocket.md").read_text()
    lines = re.search(r"These lines lift them.*?```python\n(.*?)```", text, re.DOTALL)[1]
    before = set(vars(WebSocketHandler))
    exec(lines, {"install_as_geventwebsocket": install_as_geventwebsocket})
    lifted = vars(WebSocketHandler).keys() - before
    try:
        options = start(lambda environ, start_response: []).options
    finally:
        for name in lifted:
            delattr(WebSocketHandler, name)
    assert options.allowed_origins == ("*",)
    assert {name for name in lifted if getattr(options, name) is None} == (
        # The 101 is sent at once, and gevent's servers have a stop_timeout, too.
        _MAY_BE_NONE - {"accept_after", "stop_timeout"}
    )


def test_a_fault_of_the_application_closes_with_1011(run, caplog):
    client, _ = run(lambda ws: 1 / 0)
    assert client.read_close() == (1011, "")
    client.send(close_frame(1011))
    assert client.read_to_end() == b""
    [record] = caplog.records
    assert record.exc_info[0] is ZeroDivisionError


# ------------------------------------------------- what its users have written


def test_rotkis_notifier(start):
    """Sockets register themselves with what the server's environ brings."""
    from geventwebsocket import Resource, WebSocketApplication
    from geventwebsocket.exceptions import WebSocketError
    from geventwebsocket.websocket import WebSocket

    class Notifier:
        def __init__(self):
            self.subscribers: list[WebSocket] = []

        def broadcast(self, text):
            for ws in list(self.subscribers):
                try:
                    ws.send(text)
                except WebSocketError:
                    self.subscribers.remove(ws)

    class Application(WebSocketApplication):
        def on_open(self, *args, **kwargs):
            self.notifier = self.ws.environ["notifier"]
            self.notifier.subscribers.append(self.ws)
            opened.set()

        def on_message(self, message, *args, **kwargs):
            if self.ws.closed:
                return
            self.ws.send(message)

        def on_close(self, *args, **kwargs):
            if self.ws.environ is not None:
                raise AssertionError("it is None by now")
            self.notifier.subscribers.remove(self.ws)
            closed.set()

    opened, closed = Event(), Event()
    notifier = Notifier()
    server = start(Resource([("^/ws", Application)]), environ={"notifier": notifier})
    with RawClient(server.address).open("/ws") as client:
        assert opened.wait(SECONDS)
        notifier.broadcast("a block")
        assert client.read_frame() == (TEXT, b"a block")
        client.finish()
    assert closed.wait(SECONDS)
    assert notifier.subscribers == []


def test_a_kiln_controllers_status_socket(start):
    """The view adds its WebSocket to the list of a watcher, which sends to open WebSockets."""
    from geventwebsocket import WebSocketError

    app = bottle.Bottle()
    observers = []
    ended = Event()

    @app.route("/status")
    def status():
        ws = bottle.request.environ.get("wsgi.websocket")
        if not ws:
            bottle.abort(400, "Expected WebSocket request.")
        observers.append(ws)
        ws.send('{"state": "IDLE"}')
        while True:
            try:
                message = ws.receive()
                ws.send(f"Your message was: {message!r}")
            except WebSocketError:
                break
        ended.set()

    def notify(text):
        for ws in list(observers):
            try:
                ws.send(text)
            except WebSocketError:
                observers.remove(ws)

    server = start(app)
    with RawClient(server.address).open("/status") as client:
        assert client.read_frame() == (TEXT, b'{"state": "IDLE"}')
        client.send(frame(TEXT, "hello"))
        assert client.read_frame() == (TEXT, b"Your message was: 'hello'")
        notify("21 degrees")
        assert client.read_frame() == (TEXT, b"21 degrees")
        client.finish()
    assert ended.wait(SECONDS)
    notify("22 degrees")
    assert observers == []
    with RawClient(server.address) as client:
        client.send(request("/status", without="Upgrade"))
        assert client.read_response()[0] == "400"


def test_ait_cores_telemetry_socket(start):
    """A view that only sends, from a queue, and looks at `closed` whenever the queue is empty."""
    import gevent.queue

    queue = gevent.queue.Queue()
    ended = Event()

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        while not ws.closed:
            try:
                ws.send(queue.get(timeout=0.01))
            except gevent.queue.Empty:
                if not ws.closed:
                    ws.send(b"")
        ended.set()
        return []

    with RawClient(start(app).address).open() as client:
        queue.put(b"a packet")
        while (message := client.read_frame()) == (BINARY, b""):
            pass
        assert message == (BINARY, b"a packet")
        client.vanish()
    assert ended.wait(SECONDS)


# ------------------------------------------------------------ from PyPI as it is


def test_bottle_websocket(old_packages, tmp_path):
    arguments = ["-m", "tests.support.old.bottle_websocket_echo", free_port()]
    with serving(arguments, tmp_path / "log", PYTHONPATH=old_packages) as process:
        with dial(process) as client:
            client.send(frame(TEXT, "hello"))
            assert client.read_frame() == (TEXT, b"hello")
            client.finish()
        process.wait_for("the echo has ended")
        assert "Traceback" not in process.output


def test_tinyrpcs_websocket_transport(old_packages, tmp_path):
    arguments = ["-m", "tests.support.old.tinyrpc_server", free_port()]
    with serving(arguments, tmp_path / "log", PYTHONPATH=old_packages) as process:
        with dial(process, "/ws") as client:
            call = '{"jsonrpc": "2.0", "id": 1, "method": "add", "params": [2, 3]}'
            client.send(frame(TEXT, call))
            assert b'"result": 5' in client.read_frame()[1]
            client.finish()
        assert "Traceback" not in process.output


def test_flask_socketios_own_server(node_modules, tmp_path):
    from tests.support.npm import NODE
    from tests.support.tools import need

    node = need("node", "apt-get install nodejs")
    arguments = ["-m", "tests.support.old.flask_socketio_run", free_port()]
    with serving(arguments, tmp_path / "log") as process:
        dial(process, "/socket.io/?EIO=4&transport=websocket").sock.close()
        for scenario in ("websocket", "upgrade", "rooms"):
            done = subprocess.run(
                [
                    node,
                    NODE / "socketio_client.cjs",
                    scenario,
                    f"http://127.0.0.1:{process.address[1]}",
                ],
                capture_output=True,
                timeout=30,
                check=False,
                text=True,
            )
            assert (done.returncode, done.stderr) == (0, "")
        assert "Traceback" not in process.output


def test_gunicorn_with_the_worker_of_gevent_websocket(tmp_path):
    config = ROOT / "tests" / "support" / "old" / "gunicorn_conf.py"
    arguments = ["-m", "gunicorn", "-c", str(config), "tests.support.old.echo_app:app"]
    with serving(arguments, tmp_path / "log") as process:
        with process.client().open("/echo") as client:
            client.send(frame(TEXT, "hello"))
            assert client.read_frame() == (TEXT, b"hello")
            client.send(frame(TEXT, "0123456789a"))
            assert client.read_close()[0] == 1009
        process.wait_for('"GET /echo HTTP/1.1" 101')
        assert "Traceback" not in process.output


def dial(process, path="/echo") -> RawClient:
    """Connect as soon as the server listens."""
    with gevent.Timeout(SECONDS):
        while True:
            try:
                return process.client().open(path)
            except ConnectionRefusedError:
                gevent.sleep(0.02)
