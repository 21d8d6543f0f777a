"""``WebSocketMiddleware`` inside other middleware, which hides the server in its own ways."""

import io
import warnings
from ssl import PROTOCOL_TLS_SERVER
from wsgiref.validate import validator

import pytest
from gevent import socket
from gevent.pywsgi import WSGIServer
from gevent.ssl import SSLContext
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.lint import HTTPWarning, LintMiddleware
from werkzeug.middleware.profiler import ProfilerMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from whitenoise import WhiteNoise

from geventws import WebSocketHandler, WebSocketMiddleware
from tests.support.apps import echo
from tests.support.client import TEXT, RawClient, frame, request
from tests.support.servers import arguments_of, serving, wait_until

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # WebOb imports the module cgi
    from webob.dec import wsgify


def webob(application):
    return wsgify.middleware(lambda req, app: req.get_response(app))(application)


def quiet(application):
    """Linting without its warning about responses that have no Content-Length: 0."""
    linted = LintMiddleware(application)

    def run(environ, start_response):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HTTPWarning)
            yield from linted(environ, start_response)

    return run


MIDDLEWARE = {
    "webob": webob,
    "profiler": lambda app: ProfilerMiddleware(app, stream=None),
    "lint": quiet,
    "lint twice": lambda app: quiet(LintMiddleware(app)),
    "dispatcher": lambda app: DispatcherMiddleware(app, {"/other": app}),
    "proxy fix": ProxyFix,
    "whitenoise": WhiteNoise,
}


@pytest.fixture
def serve_wsgi():
    """``serve_wsgi(app, **options)``: gevent's own server; ``server.output`` has its logs."""
    servers = []

    def start(app, listener=("127.0.0.1", 0), **options):
        output = io.StringIO()
        server = WSGIServer(listener, app, log=output, error_log=output, **options)
        server.output = output
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop(1)


def talk(client, server):
    with client.open():
        client.send(frame(TEXT, "hello"))
        assert client.read_frame() == (TEXT, b"hello")
        client.finish()
    wait_until(lambda: '" 101 ' in server.output.getvalue(), "the line in the access log")
    assert server.output.getvalue().count("\n") == 1


@pytest.mark.parametrize("name", MIDDLEWARE)
@pytest.mark.parametrize("handler", [None, WebSocketHandler], ids=["gevent", "handler"])
def test_other_middleware_around_it_changes_nothing(serve_wsgi, capfd, name, handler):
    server = serve_wsgi(MIDDLEWARE[name](WebSocketMiddleware(echo)), handler_class=handler)
    talk(RawClient(("127.0.0.1", server.server_port)), server)
    assert capfd.readouterr().err == ""


def test_other_middleware_around_it_changes_nothing_with_tls(serve_wsgi, tls):
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls[:2])
    server = serve_wsgi(webob(WebSocketMiddleware(echo)), ssl_context=context)
    talk(RawClient(("127.0.0.1", server.server_port), tls[2]), server)


def test_other_middleware_around_it_changes_nothing_on_a_unix_socket(serve_wsgi, tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    server = serve_wsgi(webob(WebSocketMiddleware(echo)), listener)
    talk(RawClient(str(tmp_path / "socket")), server)


def test_other_middleware_around_it_changes_nothing_under_gunicorn(tmp_path):
    arguments = arguments_of("gunicorn-gevent")
    arguments[arguments.index("tests.support.serve:application")] = "tests.support.serve:profiled"
    with serving(arguments, tmp_path / "log") as process:
        with process.client().open() as client:
            client.send(frame(TEXT, "hello"))
            assert client.read_frame() == (TEXT, b"hello")
            client.finish()
        process.wait_for('"GET /echo HTTP/1.1" 101')
        assert "Traceback" not in process.output


def test_middleware_that_hides_the_whole_connection_is_named_in_the_error(serve_wsgi, capfd):
    inner = WebSocketMiddleware(echo)

    def hiding(environ, start_response):
        def start(status, headers, exc_info=None):
            return start_response(status, headers, exc_info)

        environ["wsgi.input"] = io.BytesIO()
        return inner(environ, start)

    server = serve_wsgi(hiding)
    with RawClient(("127.0.0.1", server.server_port)) as client:
        client.send(request())
        assert client.read_head() == "500"
    assert "other middleware around WebSocketMiddleware has replaced" in capfd.readouterr().err


def test_middleware_that_refuses_every_101_is_named_in_the_error(serve_wsgi, capfd):
    server = serve_wsgi(validator(WebSocketMiddleware(echo)))
    with RawClient(("127.0.0.1", server.server_port)) as client:
        client.send(request())
        assert client.read_head() == "500"
    output = capfd.readouterr().err
    assert "other middleware around WebSocketMiddleware refuses the 101" in output
    assert "AssertionError: No Content-Type header found" in output


def test_an_upgrade_that_http_ignores_is_logged_once_however_many_middlewares_there_are(
    serve, caplog
):
    application = WebSocketMiddleware(ProxyFix(WebSocketMiddleware(echo)))
    with serve(application).client() as client:
        client.send(request(method="POST"))
        assert client.read_response() == ("400", b"Expected a WebSocket request.\n")
    (record,) = caplog.records
    assert record.getMessage() == (
        "Ignored the header Upgrade: websocket of a request from 127.0.0.1: The request is POST,"
        " and a WebSocket is opened with GET."
    )
