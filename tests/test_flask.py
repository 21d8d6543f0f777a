"""``geventws.flask``: Flask's views with a WebSocket as their argument."""

import contextlib
import gc
import logging
import signal
import subprocess
import threading
import time
import weakref

import flask
import flask_login
import gevent
import pytest
import sqlalchemy
import sqlalchemy.orm
import werkzeug.serving
from gevent.event import AsyncResult, Event
from gevent.pywsgi import WSGIServer
from gevent.queue import Queue
from werkzeug.exceptions import BadRequest
from werkzeug.middleware.proxy_fix import ProxyFix

from geventws import ConnectionClosed
from geventws.broadcast import Broadcast
from geventws.flask import Sock, Sockets, UpgradeRequired
from tests.support.client import BINARY, TEXT, RawClient, close_frame, frame, request
from tests.support.npm import MODULES
from tests.support.servers import ROOT, serving, wait_until
from tests.support.tools import need

SECONDS = 10  # nothing here takes so long


@pytest.fixture
def app():
    app = flask.Flask(__name__)
    app.secret_key = "not much of a secret"
    return app


@pytest.fixture
def sockets(app):
    return Sockets(app)


def echo(ws, **values):
    for message in ws:
        ws.send(message)


def ask(server, path, headers=(), http="HTTP/1.1"):
    """The answer to a plain request: status, body, headers."""
    with server.client() as client:
        plain = {"Connection": "close", **dict(headers)}
        client.send(request(path, plain.items(), without="Upgrade", http=http))
        status, body = client.read_response()
        return status, body.decode(), client.headers


def refusal(server, path, headers=()):
    """The answer to a request for a WebSocket that does not become one."""
    with server.client() as client:
        client.send(request(path, headers))
        status, body = client.read_response()
        return status, body.decode(), client.headers


def assert_echoes(client):
    """See that messages come back, and end the connection."""
    with client:
        client.send(frame(TEXT, "grüß dich") + frame(BINARY, b"\0\xff"))
        assert client.read_frame() == (TEXT, "grüß dich".encode())
        assert client.read_frame() == (BINARY, b"\0\xff")
        client.finish()


# --------------------------------------------------------------------- routes


def test_a_route_gets_the_websocket_and_the_variables_of_the_url(app, sockets, serve):
    @sockets.route("/rooms/<room>/<int:seat>")
    def room(ws, room, seat):
        ws.send(f"{room!r} {seat!r}")

    with serve(app).client().open("/rooms/kitchen/3") as client:
        assert client.read_frame() == (TEXT, b"'kitchen' 3")
        assert client.read_close() == (1000, "")


def test_a_rule_without_a_decorator_as_flask_sockets_takes_it(app, sockets, serve):
    sockets.add_url_rule("/echo", None, echo)
    assert_echoes(serve(app).client().open("/echo"))


def test_url_for_knows_a_socket_by_the_name_of_its_view(app, sockets):
    sockets.route("/rooms/<room>")(echo)
    sockets.route("/other", endpoint="elsewhere")(lambda ws: None)
    with app.test_request_context():
        assert flask.url_for("echo", room="kitchen") == "ws://localhost/rooms/kitchen"
        assert flask.url_for("elsewhere", _scheme="wss") == "wss://localhost/other"


@pytest.mark.parametrize("with_blueprint", [False, True])
def test_a_view_may_have_several_rules(app, sockets, serve, with_blueprint):
    blueprint = flask.Blueprint("rooms", __name__) if with_blueprint else None

    @sockets.route("/", bp=blueprint)
    @sockets.route("/<name>", bp=blueprint)
    def say(ws, name="nobody"):
        ws.send(name)

    if blueprint is not None:
        app.register_blueprint(blueprint)
    server = serve(app)
    for path, name in ("/", b"nobody"), ("/you", b"you"):
        with server.client().open(path) as client:
            assert client.read_frame() == (TEXT, name)


def test_one_endpoint_is_not_for_two_views(app, sockets):
    sockets.route("/one", endpoint="say")(lambda ws: ws.send("one"))
    with pytest.raises(AssertionError, match="overwriting an existing endpoint function: say"):
        sockets.route("/two", endpoint="say")(lambda ws: ws.send("two"))


def test_routes_may_be_older_than_the_application(app, serve):
    sockets = Sockets()
    sockets.route("/echo")(echo)
    sockets.init_app(app)
    sockets.route("/later")(lambda ws: ws.send("later"))
    server = serve(app)
    assert_echoes(server.client().open("/echo"))
    with server.client().open("/later") as client:
        assert client.read_frame() == (TEXT, b"later")


def test_one_extension_serves_several_applications(serve):
    sockets = Sockets()
    sockets.route("/echo")(echo)
    for _ in range(2):
        app = flask.Flask(__name__)
        sockets.init_app(app)
        assert_echoes(serve(app).client().open("/echo"))


def test_flask_sockets_blueprints_are_all_sockets(app, sockets, serve):
    blueprint = flask.Blueprint("talk", __name__)
    inner = flask.Blueprint("inner", __name__)
    blueprint.route("/echo/<name>")(echo)
    inner.route("/echo")(echo)
    blueprint.register_blueprint(inner, url_prefix="/inner")
    sockets.register_blueprint(blueprint, url_prefix="/talk")
    server = serve(app)
    assert_echoes(server.client().open("/talk/echo/ada"))
    assert_echoes(server.client().open("/talk/inner/echo"))
    assert ask(server, "/talk/echo/ada")[0] == "426"


def test_a_socket_in_nested_blueprints_of_flasks_own_has_their_prefix_and_their_hooks(
    app, sockets, serve
):
    outer = flask.Blueprint("outer", __name__, url_prefix="/outer")
    inner = flask.Blueprint("inner", __name__, url_prefix="/inner")

    @outer.before_request
    def keep_out():
        if "ban" in flask.request.args:
            flask.abort(403, "You are banned.")

    @sockets.route("/<name>", bp=inner)
    def talk(ws, name):
        ws.send(f"{name} at {flask.url_for('.talk', name=name)}")

    @inner.route("/page")
    def page():
        return "page"

    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    server = serve(app)
    with server.client().open("/outer/inner/ada") as client:
        assert client.read_frame() == (TEXT, b"ada at ws://test.example/outer/inner/ada")
    assert ask(server, "/outer/inner/page")[:2] == ("200", "page")
    status, body, _ = refusal(server, "/outer/inner/ada?ban")
    assert status == "403"
    assert "You are banned." in body


# ------------------------------------------------------------- plain requests


async def echo_async(ws):
    """A view for another library."""


@pytest.mark.parametrize("extension", [Sockets, Sock])
@pytest.mark.parametrize("place", [{}, {"bp": flask.Blueprint("talk", __name__)}])
def test_an_async_view_is_an_error_at_its_decoration(app, extension, place):
    for sockets in extension(app), extension():
        with pytest.raises(TypeError, match=r"echo_async is an async def function.* Write def"):
            sockets.route("/echo", **place)(echo_async)


def test_an_async_view_of_a_blueprint_is_an_error_at_its_registration(app, sockets):
    blueprint = flask.Blueprint("talk", __name__)
    blueprint.route("/echo")(echo_async)
    with pytest.raises(TypeError, match="echo_async is an async def function"):
        sockets.register_blueprint(blueprint)


def test_an_async_view_inside_another_function_is_an_error_of_the_view(app, sockets, serve, caplog):
    sockets.route("/echo", endpoint="echo")(lambda ws: echo_async(ws) or None)
    assert refusal(serve(app), "/echo")[0] == "500"
    assert "TypeError: echo_async is an async def function" in caplog.text


def listen(websocket):
    """A view for a WebSocket, with another name for it."""


@pytest.mark.parametrize(
    "register",
    [
        lambda app, sockets: app.route("/echo")(echo),
        lambda app, sockets: app.route("/listen")(sockets.route("/listen")(listen)),
        lambda app, sockets: sockets.route("/listen")(app.route("/listen")(listen)),
        lambda app, sockets: app.route("/page")(sockets.route("/x", endpoint="x")(listen)),
    ],
    ids=["argument", "above", "below", "endpoint"],
)
def test_a_websocket_view_cannot_be_a_view_for_http(app, sockets, register):
    with pytest.raises(TypeError, match=r"is a WebSocket view: use @sockets\.route, without @app"):
        register(app, sockets)


def test_a_websocket_view_in_a_blueprint_of_flask_is_an_error_at_the_registration(app, sockets):
    blueprint = flask.Blueprint("talk", __name__)
    blueprint.route("/echo/<name>")(echo)
    with pytest.raises(TypeError, match="echo is a WebSocket view"):
        app.register_blueprint(blueprint)


def test_an_argument_ws_that_flask_passes_is_no_error(app, sockets):
    app.route("/rooms/<int:ws>")(lambda ws: f"{ws}")
    app.route("/first", endpoint="first", defaults={"ws": 1})(lambda ws: f"{ws}")
    app.route("/any", endpoint="any")(lambda ws=None: f"{ws}")
    pages = app.test_client()
    assert [pages.get(path).text for path in ("/rooms/2", "/first", "/any")] == ["2", "1", "None"]


def test_flasks_own_server_says_what_to_run_instead(app, sockets, caplog):
    sockets.route("/echo")(echo)
    app.route("/page")(lambda: "a page")
    server = werkzeug.serving.make_server("127.0.0.1", 0, app)
    thread = threading.Thread(target=lambda: [server.handle_request() for _ in range(2)])
    thread.start()
    try:
        for path, answer in ("/page", "a page"), ("/echo", "python -m geventws MODULE:APP"):
            with RawClient(("127.0.0.1", server.port)) as client:
                client.send(request(path, without="Upgrade" if answer == "a page" else ""))
                status, body = client.read_response()
                assert answer in body.decode()
        assert status == "501"
        assert [record.getMessage() for record in caplog.records if record.name == "geventws"] == [
            body.decode().rstrip()
        ]
    finally:
        thread.join()
        server.server_close()


def test_a_plain_request_for_a_socket_gets_426(app, sockets, serve):
    sockets.route("/echo")(echo)
    status, body, headers = ask(serve(app), "/echo")
    assert status == "426"
    assert "is a WebSocket endpoint" in body
    assert (headers["upgrade"], headers["connection"]) == ("websocket", "Upgrade")


def test_a_request_for_a_socket_through_a_proxy_with_http_1_0_gets_426(app, sockets, serve):
    sockets.route("/echo")(echo)
    with serve(app).client() as client:
        client.send(request("/echo", http="HTTP/1.0"))
        assert client.read_head() == "426"


def test_the_application_may_have_its_own_page_for_426(app, sockets, serve):
    sockets.route("/echo")(echo)
    app.register_error_handler(UpgradeRequired, lambda problem: ("Get a newer browser.", 426))
    assert ask(serve(app), "/echo")[:2] == ("426", "Get a newer browser.")


def test_the_page_of_the_same_path_goes_to_plain_requests(app, sockets, serve):
    app.route("/echo", endpoint="page")(lambda: "a page")
    sockets.route("/echo")(echo)
    server = serve(app)
    assert ask(server, "/echo")[:2] == ("200", "a page")
    assert_echoes(server.client().open("/echo"))


@pytest.mark.parametrize("has_handler", [False, True])
def test_a_websocket_for_a_page_is_refused_with_400(app, sockets, serve, has_handler):
    app.route("/page")(lambda: "a page")
    if has_handler:
        app.register_error_handler(BadRequest, lambda problem: ("Not like this.", 400))
    status, body, _ = refusal(serve(app), "/page")
    assert status == "400"
    assert (body == "Not like this.") is has_handler


def test_a_path_that_does_not_exist_is_404(app, sockets, serve):
    assert refusal(serve(app), "/nowhere")[0] == "404"


# --------------------------------------------------------- before the upgrade


def test_a_view_may_abort_redirect_or_answer_instead(app, sockets, serve):
    sockets.route("/abort", endpoint="abort")(lambda ws: flask.abort(401, "Log in first."))
    sockets.route("/redirect", endpoint="redirect")(lambda ws: flask.redirect("/elsewhere"))
    sockets.route("/answer", endpoint="answer")(lambda ws: ("Not today.", 503, {"Retry-After": 9}))
    server = serve(app)
    status, body, _ = refusal(server, "/abort")
    assert (status, "Log in first." in body) == ("401", True)
    status, _, headers = refusal(server, "/redirect")
    assert (status, headers["location"]) == ("302", "/elsewhere")
    status, body, headers = refusal(server, "/answer")
    assert (status, body, headers["retry-after"]) == ("503", "Not today.", "9")


def test_before_request_refuses_before_the_view(app, sockets, serve):
    @app.before_request
    def keep_out():
        flask.abort(403, "You are banned.")

    sockets.route("/echo")(lambda ws: pytest.fail("it ran"))
    status, body, _ = refusal(serve(app), "/echo")
    assert (status, "You are banned." in body) == ("403", True)


def test_flask_login_keeps_strangers_out_and_tells_the_view_who_it_is(app, sockets, serve):
    class User(flask_login.UserMixin):
        def __init__(self, name):
            self.id = name

    flask_login.LoginManager(app).user_loader(User)
    app.route("/login/<name>")(lambda name: str(flask_login.login_user(User(name))))

    @sockets.route("/me")
    @flask_login.login_required
    def me(ws):
        for _ in ws:
            ws.send(flask_login.current_user.id)

    server = serve(app)
    assert refusal(server, "/me")[0] == "401"
    cookie = ask(server, "/login/ada")[2]["set-cookie"].partition(";")[0]
    with server.client().open("/me", [("Cookie", cookie)]) as client:
        client.send(frame(TEXT, "who am I?"))
        assert client.read_frame() == (TEXT, b"ada")
        client.finish()


def cookies_of(client):
    """The 101 may have several; RawClient keeps the last header of a name."""
    return client.headers.get("set-cookie", "")


def test_a_session_that_is_changed_before_the_upgrade_travels_in_the_101(app, sockets, serve):
    @sockets.route("/count")
    def count(ws):
        flask.session["visits"] = flask.session.get("visits", 0) + 1
        ws.send(str(flask.session["visits"]))

    server = serve(app)
    cookie = ""
    for visit in (b"1", b"2", b"3"):
        headers = [("Cookie", cookie)] if cookie else []
        with server.client().open("/count", headers) as client:
            assert client.read_frame() == (TEXT, visit)
            cookie = cookies_of(client).partition(";")[0]


@pytest.mark.parametrize("debug", [True, False])
def test_a_session_that_is_changed_too_late_is_a_warning_in_debug_mode(
    app, sockets, serve, caplog, debug
):
    @sockets.route("/early")
    def early(ws):
        flask.session["visits"] = 1
        ws.send("changed")

    @sockets.route("/late")
    def late(ws):
        ws.accept()
        early(ws)

    app.debug = debug
    server = serve(app)
    for path in "/early", "/late", "/late":
        with server.client().open(path) as client:
            assert client.read_frame() == (TEXT, b"changed")
    assert caplog.text.count("The session was changed") == debug
    assert caplog.text.count("The session was changed after the WebSocket /late had") == debug


def test_a_session_that_a_callback_changes_is_a_warning(app, sockets, serve, caplog):
    def change(ws, message):
        flask.session["messages"] = 1
        ws.send("changed")

    app.debug = True
    sockets.route("/late", endpoint="late")(lambda ws: ws.detach(change))
    with serve(app).client().open("/late") as client:
        client.send(frame(TEXT, "x"))
        assert client.read_frame() == (TEXT, b"changed")
    assert caplog.text.count("The session was changed after the WebSocket /late had") == 1


def test_a_session_that_nobody_changes_adds_nothing_to_the_101(app, sockets, serve):
    sockets.route("/echo")(echo)
    with serve(app).client().open("/echo") as client:
        assert set(client.headers) <= {"upgrade", "connection", "sec-websocket-accept", "date"}
        client.finish()


def test_after_this_request_adds_to_the_101_once_whoever_is_the_first_to_use_the_socket(
    app, sockets, serve
):
    calls = []

    @app.before_request
    def remember_language():
        @flask.after_this_request
        def remember(response):
            calls.append(response.status_code)
            response.set_cookie("language", flask.request.args["language"])
            return response

    @sockets.route("/hello")
    def hello(ws):
        # The new greenlet has no context of Flask's.
        gevent.spawn(ws.send, "hello").get()

    with serve(app).client().open("/hello?language=de") as client:
        assert cookies_of(client) == "language=de; Path=/"
        assert client.read_frame() == (TEXT, b"hello")
        client.finish()
    assert calls == [101]


def test_a_cookie_travels_in_a_refusal_as_ever(app, sockets, serve):
    @sockets.route("/refuse")
    def refuse(ws):
        flask.session["refused"] = True
        flask.abort(403)

    status, _, headers = refusal(serve(app), "/refuse")
    assert status == "403"
    assert headers["set-cookie"].startswith("session=")


def test_headers_of_accept_and_the_sessions_cookie_travel_together(app, sockets, serve):
    @sockets.route("/both")
    def both(ws):
        flask.session["seen"] = True
        ws.accept(headers=[("X-Room", "kitchen")])

    with serve(app).client().open("/both") as client:
        assert client.headers["x-room"] == "kitchen"
        assert cookies_of(client).startswith("session=")


# ---------------------------------------------------------- after the upgrade


def test_the_request_context_lives_as_long_as_the_view_and_teardown_follows(app, sockets, serve):
    torn_down = AsyncResult()
    app.teardown_request(torn_down.set)

    @sockets.route("/name/<name>")
    def name(ws, name):
        flask.g.name = name
        for _ in ws:
            ws.send(f"{flask.g.name} {flask.request.args['room']}")

    server = serve(app)
    with (
        server.client().open("/name/ada?room=a") as hers,
        server.client().open("/name/bob?room=b") as his,
    ):
        for _ in range(3):
            hers.send(frame(TEXT, "?"))
            his.send(frame(TEXT, "?"))
            assert hers.read_frame() == (TEXT, b"ada a")
            assert his.read_frame() == (TEXT, b"bob b")
        assert not torn_down.ready()
        hers.finish()
    assert torn_down.get(timeout=SECONDS) is None


def test_after_request_functions_run_once_at_the_end(app, sockets, serve):
    done = AsyncResult()

    @app.after_request
    def note(response):
        assert not done.ready()
        done.set(response.status_code)
        return response

    sockets.route("/echo")(echo)
    assert_echoes(serve(app).client().open("/echo"))
    assert done.get(timeout=SECONDS) == 200


def test_a_view_that_does_nothing_accepts_and_closes_with_1000(app, sockets, serve):
    sockets.route("/nothing")(lambda ws: None)
    with serve(app).client().open("/nothing") as client:
        assert client.read_close() == (1000, "")


def test_a_peer_that_leaves_is_no_error_in_the_log(app, sockets, serve, caplog):
    left = AsyncResult()
    app.teardown_request(left.set)

    @sockets.route("/echo")
    def old_loop(ws):
        while not ws.closed:
            message = ws.receive()
            ws.send(message)

    assert_echoes(serve(app).client().open("/echo"))
    assert left.get(timeout=SECONDS) is None
    assert not caplog.records


def test_a_fault_after_the_upgrade_closes_with_1011_and_is_logged_once(app, sockets, serve, caplog):
    @sockets.route("/crash")
    def crash(ws):
        ws.send("about to fail")
        raise ZeroDivisionError("the view's fault")

    with serve(app).client().open("/crash") as client:
        assert client.read_frame() == (TEXT, b"about to fail")
        assert client.read_close() == (1011, "")
        client.send(close_frame(1011))
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.exc_info[0] is ZeroDivisionError


def test_the_end_of_another_connection_is_a_fault(app, sockets, serve, caplog):
    @sockets.route("/proxy")
    def proxy(ws):
        ws.accept()
        raise ConnectionClosed(1006)

    with serve(app).client().open("/proxy") as client:
        assert client.read_close() == (1011, "")
        client.send(close_frame(1011))
    [record] = [record for record in caplog.records if record.exc_info]
    assert record.exc_info[0] is ConnectionClosed


# ------------------------------------------------------------------- detached


def test_a_callback_has_new_contexts_of_the_request_and_no_hooks_run_before_it(app, sockets, serve):
    requests, torn_down = [], Queue()
    app.before_request(lambda: requests.append(flask.request.path))
    app.teardown_appcontext(torn_down.put)

    def describe(ws, message):
        flask.g.calls = flask.g.get("calls", 0) + 1
        url = flask.url_for("room", room=flask.request.view_args["room"])
        ws.send(f"{url} {flask.request.args['name']} {flask.g.calls}")

    def on_close(ws):
        requests.append(f"{flask.request.path} has ended")

    @sockets.route("/rooms/<room>")
    def room(ws, room):
        flask.g.calls = 10
        ws.detach(describe, on_close)

    server = serve(app)
    with (
        server.client().open("/rooms/a?name=ada") as hers,
        server.client().open("/rooms/b?name=bob") as his,
    ):
        for _ in range(2):
            hers.send(frame(TEXT, "?"))
            assert hers.read_frame() == (TEXT, b"ws://test.example/rooms/a ada 1")
            his.send(frame(TEXT, "?"))
            assert his.read_frame() == (TEXT, b"ws://test.example/rooms/b bob 1")
        hers.finish()
        # Two views, four messages, one end.
        assert [torn_down.get(timeout=SECONDS) for _ in range(7)] == [None] * 7
        assert requests == ["/rooms/a", "/rooms/b", "/rooms/a has ended"]


def test_a_callback_reads_the_session_and_the_login_and_changes_are_not_kept(app, sockets, serve):
    class User(flask_login.UserMixin):
        def __init__(self, name):
            self.id = name

    flask_login.LoginManager(app).user_loader(User)

    def count(ws, message):
        flask.session["messages"] = flask.session.get("messages", 0) + 1
        ws.send(f"{flask_login.current_user.id} {flask.session['messages']}")

    app.route("/login/<name>")(lambda name: str(flask_login.login_user(User(name))))
    sockets.route("/count", endpoint="count")(lambda ws: ws.detach(count))
    server = serve(app)
    cookie = ask(server, "/login/ada")[2]["set-cookie"].partition(";")[0]
    with server.client().open("/count", [("Cookie", cookie)]) as client:
        for _ in range(2):
            client.send(frame(TEXT, "x"))
            assert client.read_frame() == (TEXT, b"ada 1")


def test_teardown_functions_get_the_exception_of_a_callback(app, sockets, serve):
    torn_down = Queue()
    app.teardown_appcontext(torn_down.put)
    sockets.route("/fail")(lambda ws: ws.detach(lambda ws, message: 1 / 0))
    with serve(app).client().open("/fail") as client:
        client.send(frame(TEXT, "x"))
        assert client.read_close() == (1011, "")
        assert torn_down.get(timeout=SECONDS) is None
        assert isinstance(torn_down.get(timeout=SECONDS), ZeroDivisionError)


def test_a_detached_websocket_without_callbacks_keeps_nothing_of_the_request(app, sockets, serve):
    environs = []

    class Environ(dict):
        """A dict that can be referred to weakly."""

    def wsgi(environ, start_response):
        environ = Environ(environ)
        environs.append(weakref.ref(environ))
        return app(environ, start_response)

    sockets.route("/listen")(lambda ws: ws.detach())
    server = serve(wsgi)
    with server.client().open("/listen"):
        wait_until(server.is_idle)
        gc.collect()
        assert environs[0]() is None


def test_detached_listeners_leave_the_pool_of_the_database_free(app, sockets, serve, tmp_path):
    engine = sqlalchemy.create_engine(
        f"sqlite:///{tmp_path}/data", pool_size=5, max_overflow=0, pool_timeout=0.05
    )
    # As Flask-SQLAlchemy does it: a session belongs to an application context.
    session = sqlalchemy.orm.scoped_session(
        sqlalchemy.orm.sessionmaker(engine),
        scopefunc=lambda: id(flask.globals.app_ctx._get_current_object()),
    )
    app.teardown_appcontext(lambda problem: session.remove())

    def answer(ws, message):
        ws.send(str(session.scalar(sqlalchemy.text("SELECT :message"), {"message": message})))

    @sockets.route("/block")
    def block(ws):
        answer(ws, "hello")
        for message in ws:
            answer(ws, message)

    @sockets.route("/detach")
    def detach(ws):
        answer(ws, "hello")
        ws.detach(answer)

    server = serve(app)
    with contextlib.ExitStack() as clients:
        for _ in range(5):
            clients.enter_context(server.client().open("/block"))
        assert engine.pool.checkedout() == 5
        assert refusal(server, "/block")[0] == "500"  # no connection within pool_timeout
    wait_until(lambda: not server.websockets)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client().open("/detach")) for _ in range(100)]
        wait_until(server.is_idle)
        assert engine.pool.checkedout() == 0
        for client in clients:
            client.send(frame(TEXT, "again"))
        for client in clients:
            assert client.read_frame() == (TEXT, b"hello")
            assert client.read_frame() == (TEXT, b"again")
        wait_until(lambda: engine.pool.checkedout() == 0)
    engine.dispose()


# -------------------------------------------------------------------- options


def test_options_come_from_the_configuration_and_go_before_the_servers(app, sockets, serve):
    sockets.route("/echo")(echo)
    app.config["GEVENTWS_MAX_MESSAGE_SIZE"] = 5
    app.config["GEVENTWS_ALLOWED_ORIGINS"] = ["https://friend.example"]
    app.config["GEVENTWS_SUBPROTOCOLS"] = ["chat"]
    server = serve(app, max_message_size=100)
    headers = [("Origin", "https://friend.example"), ("Sec-WebSocket-Protocol", "chat")]
    with server.client().open("/echo", headers) as client:
        assert client.headers["sec-websocket-protocol"] == "chat"
        client.send(frame(TEXT, "12345") + frame(TEXT, "123456"))
        assert client.read_frame() == (TEXT, b"12345")
        assert client.read_close()[0] == 1009


def test_an_option_that_does_not_exist_is_an_error_when_the_server_starts(app, sockets, serve):
    app.config["GEVENTWS_MAX_MESAGE_SIZE"] = 5
    with pytest.raises(TypeError, match="max_mesage_size"):
        serve(app)


def test_options_that_middleware_hides_from_the_server_are_a_warning(app, sockets, serve, caplog):
    sockets.route("/echo")(echo)
    app.config["GEVENTWS_MAX_MESSAGE_SIZE"] = 5
    server = serve(ProxyFix(app))
    for _ in range(2):
        assert_echoes(server.client().open("/echo"))
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "does not use the option max_message_size of the application" in record.getMessage()


def test_gevents_own_server_is_enough(app, sockets):
    sockets.route("/echo")(echo)
    app.config["GEVENTWS_MAX_MESSAGE_SIZE"] = 20
    server = WSGIServer(("127.0.0.1", 0), app, log=None)
    server.start()
    try:
        assert_echoes(RawClient(server.address).open("/echo"))
        with RawClient(server.address).open("/echo") as client:
            client.send(frame(TEXT, "x" * 21))
            assert client.read_close()[0] == 1009
    finally:
        server.stop(1)


@pytest.mark.parametrize("worker", ["geventws.flask.worker", "gevent", "gevent_pywsgi"])
def test_flask_under_gunicorn_whatever_the_worker(worker, tmp_path):
    arguments = ["-m", "gunicorn", "-k", worker, "-b", "127.0.0.1:0", "--access-logfile", "-"]
    arguments += ["--graceful-timeout", "5", "tests.support.flask_sock_app:app"]
    with serving(arguments, tmp_path / "log") as process:
        with process.client().open("/echo") as client:
            client.send(frame(TEXT, "hello"))
            assert client.read_frame() == (TEXT, b"hello")
            client.finish()
        process.wait_for('"GET /echo HTTP/1.1" 101')
        with process.client().open("/patient/0.01") as client:
            assert client.read_frame() == (TEXT, b"nothing came")
            client.vanish()
        process.wait_for("patient has ended")
        assert "Traceback" not in process.output


# ----------------------------------------------------------------- flask-sock


PROGRAM = """
import sys
from flask import Flask
from geventws.flask import Sockets

app = Flask(__name__)
sockets = Sockets(app)

@app.get("/")
def page():
    raise ValueError("first")

@sockets.route("/echo")
def echo(ws):
    for message in ws:
        ws.send(message)

if __name__ == "__main__":
"""


def test_run_has_the_debugger_and_the_reloader(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        f"from gevent import monkey\nmonkey.patch_all()\n{PROGRAM}"
        "    sockets.run(app, port=0, debug=True)"
    )
    with serving([str(program)], tmp_path / "log", PYTHONPATH=str(ROOT)) as process:
        assert_echoes(process.client().open("/echo"))
        status, body, _ = ask(process, "/")
        assert status == "500"
        assert "ValueError: first" in body
        assert "Werkzeug Debugger" in body
        program.write_text(program.read_text().replace("first", "second"))
        process.wait_for("Reloading: .*program.py changed")
        assert "ValueError: second" in ask(process, "/")[1]  # waits for the new process
        assert "patch_all" not in process.output
        assert process.stop(signal.SIGINT) == 0
        assert "KeyboardInterrupt" not in process.output


def test_run_has_no_debugger_for_other_machines_and_says_what_is_missing(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        f"{PROGRAM}    sys.modules['watchfiles'] = None\n"
        "    sockets.run(app, '0.0.0.0', 0, debug=True)"
    )
    ready = r"http://0\.0\.0\.0:(\d+)"
    with serving([str(program)], tmp_path / "log", ready=ready, PYTHONPATH=str(ROOT)) as process:
        process.address = ("127.0.0.1", int(process.wait_for(ready)[1]))
        assert_echoes(process.client().open("/echo"))
        assert ask(process, "/")[0] == "500"
        assert "Debugger" not in ask(process, "/")[1]
        for sentence in (
            "the debugger is disabled, because other machines may connect to 0.0.0.0",
            "this needs watchfiles",
            "gevent.monkey.patch_all() was not called",
        ):
            assert process.output.count(sentence) == 1


def test_run_says_in_a_sentence_that_the_port_is_in_use(app, sockets, serve):
    port = serve(app).server_port
    with pytest.raises(SystemExit, match=f"geventws: cannot listen on 127.0.0.1:{port}: Address"):
        sockets.run(app, port=port, debug=True)


def test_run_does_not_block_a_command_of_flask(app, sockets, monkeypatch, capsys):
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    sockets.run(app)
    assert "ignoring sockets.run()" in capsys.readouterr().err


def test_flask_socks_views_end_by_connection_closed(app, serve):
    ended = AsyncResult()
    sock = Sock(app)

    @sock.route("/echo")
    def echo(ws):
        try:
            while True:
                assert (ws.connected, ws.close_reason, ws.close_message) == (True, None, None)
                ws.send(ws.receive())
        except ConnectionClosed as closed:
            assert not ws.connected
            ended.set((closed.code, ws.path, ws.close_reason, ws.close_message))
            raise

    with serve(app).client().open("/echo") as client:
        client.send(frame(TEXT, "hi"))
        assert client.read_frame() == (TEXT, b"hi")
        client.send(close_frame(4001, "enough"))
        assert client.read_close() == (4001, "enough")
    assert ended.get(timeout=SECONDS) == (4001, "/echo", 4001, "enough")


def test_flask_socks_app_and_bp_are_set_as_flask_sock_sets_them(app, serve):
    sock = Sock()
    assert (sock.app, sock.bp) == (None, None)
    blueprint = flask.Blueprint("rooms", __name__)
    sock.route("/echo", bp=blueprint)(echo)
    assert (sock.app, sock.bp) == (None, None)
    sock.route(path="/early")(echo)
    assert sock.bp is not None
    sock.init_app(app)
    assert sock.app is app
    app.register_blueprint(blueprint, url_prefix="/rooms")
    sock.route("/late", endpoint="late")(echo)
    server = serve(app)
    for path in ("/early", "/late", "/rooms/echo"):
        assert_echoes(server.client().open(path))
    with app.test_request_context():
        assert flask.url_for("__flask_sock.echo") == "ws://localhost/early"


def test_flask_sock_needs_no_blueprint_for_the_views_of_its_application(app, serve):
    sock = Sock(app)
    sock.route("/echo")(echo)
    assert (sock.app, sock.bp) == (app, None)
    assert_echoes(serve(app).client().open("/echo"))


def test_flask_socks_websockets_can_be_subscribed_excluded_and_unsubscribed(app, serve):
    broadcast = Broadcast("memory://")

    @Sock(app).route("/room")
    def room(ws):
        broadcast.subscribe(["room", "left"], ws)
        broadcast.unsubscribe("left", ws)
        broadcast.publish("room", "others", exclude=ws)
        broadcast.publish("left", "nobody")
        broadcast.publish("room", "all")
        ws.receive()

    with serve(app).client().open("/room") as client:
        assert client.read_frame() == (TEXT, b"all")
        client.finish()


def test_flask_socks_websocket_is_found_in_a_set_by_the_callbacks(app, serve):
    clients = set()
    ended = Event()

    @Sock(app).route("/room")
    def room(ws):
        clients.add(ws)
        ws.detach(lambda ws, _: ws.send(str(ws in clients)), lambda ws: ended.set())
        assert ws != object()

    with serve(app).client().open("/room") as client:
        client.send(frame(TEXT, "in?"))
        assert client.read_frame() == (TEXT, b"True")
        client.finish()
    assert ended.wait(SECONDS)


def test_flask_socks_receive_returns_none_when_its_time_is_up(app, serve):
    @Sock(app).route("/patient")
    def patient(ws):
        ws.send(f"{ws.receive(timeout=0)} {ws.receive(0.01)}")

    with serve(app).client().open("/patient") as client:
        assert client.read_frame() == (TEXT, b"None None")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((), (1000, "")), ((4002, "not you"), (4002, "not you")), ((1001,), (1001, ""))],
)
def test_flask_socks_close_has_a_reason_and_a_message(app, serve, arguments, expected):
    @Sock(app).route("/close")
    def close(ws):
        ws.close(**dict(zip(("reason", "message"), arguments, strict=False)))

    with serve(app).client().open("/close") as client:
        assert client.read_close() == expected
        client.send(close_frame(1000))


def test_flask_socks_options_are_obeyed(app, serve):
    app.config["SOCK_SERVER_OPTIONS"] = {
        "ping_interval": 25,
        "max_message_size": 5,
        "receive_bytes": 100,
        "subprotocols": None,
    }
    Sock(app).route("/echo")(echo)
    server = serve(app)
    assert (server.options.ping_interval, server.options.subprotocols) == (25, ())
    with server.client().open("/echo") as client:
        client.send(frame(TEXT, "123456"))
        assert client.read_close()[0] == 1009


def test_flask_socks_options_may_be_none(app, serve):
    app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": None, "max_message_size": None}
    Sock(app)
    options = serve(app).options
    assert (options.ping_interval, options.max_message_size) == (None, None)


# ---------------------------------------------------------- Heroku's tutorial


@contextlib.contextmanager
def redis_server(directory):
    """A Redis of the test's own; gives its URL."""
    program = need("redis-server", "apt-get install redis-server")
    path = directory / "redis.sock"
    command = [program, "--port", "0", "--unixsocket", str(path), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=directory) as process:
        try:
            deadline = time.monotonic() + SECONDS
            while not path.exists():
                assert time.monotonic() < deadline
                gevent.sleep(0.02)
            yield f"unix://{path}"
        finally:
            process.terminate()


def test_herokus_chat_runs_with_one_import_changed(open_window, node_modules, tmp_path):
    arguments = ["-m", "gunicorn", "-k", "geventws.flask.worker", "-b", "127.0.0.1:0"]
    arguments += ["--graceful-timeout", "5", "tests.support.heroku_chat:app"]
    reconnecting = str(MODULES / "reconnecting-websocket" / "dist")
    with (
        redis_server(tmp_path) as url,
        serving(arguments, tmp_path / "log", REDIS_URL=url, RECONNECTING=reconnecting) as process,
    ):
        window = open_window(f"http://127.0.0.1:{process.address[1]}/")
        window.execute_async_script("""
            const done = arguments[arguments.length - 1];
            const list = document.querySelector("ul");
            new MutationObserver(() => list.children.length == 2 && done()).observe(
                list, {childList: true});
            const say = () => {
                if (inbox.readyState != 1 || outbox.readyState != 1) return setTimeout(say, 10);
                for (const word of ["hello", "grüß dich"]) outbox.send(word);
            };
            say();
        """)
        assert window.find_element("tag name", "ul").text == "hello\ngrüß dich"
        window.close()  # about:blank would leave the page in the cache for going back
        for view in ("inbox", "outbox"):
            process.wait_for(f"the {view} has ended")
        assert "Traceback" not in process.output


@pytest.mark.parametrize("extension", [True, False], ids=["extension", "no extension"])
def test_a_stalled_upload_is_a_408_and_no_traceback_with_the_extension(serve, caplog, extension):
    app = flask.Flask(__name__)
    if extension:
        Sockets(app)

    @app.post("/upload")
    def upload():
        return str(len(flask.request.form))

    with serve(app, body_timeout=0.2).client() as client:
        client.send(
            b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\na=1"
        )
        assert client.read_head() == "408"
    assert any(record.exc_info for record in caplog.records) is not extension
