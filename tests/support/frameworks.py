"""A Flask and a Bottle application that know of WebSockets only what the environ tells them."""

import bottle
import flask
from werkzeug.middleware.proxy_fix import ProxyFix

SECRET = "not much of a secret"

flask_app = flask.Flask(__name__)
flask_app.secret_key = SECRET
bottle_app = bottle.Bottle()


# ---------------------------------------------------------------------- Flask


@flask_app.before_request
def keep_out():
    if "ban" in flask.request.args:
        flask.abort(403, "You are banned.")


@flask_app.post("/login")
def flask_login():
    flask.session["name"] = flask.request.form["name"]
    return "welcome\n"


@flask_app.get("/plain")
def flask_plain():
    return "plain\n"


@flask_app.route("/chat", websocket=True)
def flask_chat():
    """Repeats what somebody says who has logged in."""
    if "name" not in flask.session:
        flask.abort(401, "Log in first.")
    ws = flask.request.environ["wsgi.websocket"]
    for message in ws:
        ws.send(f"{flask.session['name']} in {flask.request.args['room']}: {message}")
    return "swallowed\n"


@flask_app.route("/moved", websocket=True)
def flask_moved():
    return flask.redirect("/chat")


@flask_app.route("/crash", websocket=True)
def flask_crash():
    flask.request.environ["wsgi.websocket"].send("about to fail")
    raise ZeroDivisionError("the fault of Flask's view")


@flask_app.route("/crash-early", websocket=True)
def flask_crash_early():
    raise ZeroDivisionError("the early fault of Flask's view")


@flask_app.route("/who", websocket=True)
def flask_who():
    """Tells whom and what the framework takes the client and itself for."""
    request = flask.request
    request.environ["wsgi.websocket"].send(f"{request.remote_addr} at {request.host_url}")
    return ""


# --------------------------------------------------------------------- Bottle


@bottle_app.post("/login")
def bottle_login():
    bottle.response.set_cookie("name", bottle.request.forms.name, secret=SECRET)
    return "welcome\n"


@bottle_app.get("/plain")
def bottle_plain():
    return "plain\n"


@bottle_app.get("/chat")
def bottle_chat():
    """Repeats what somebody says who has logged in."""
    ws = bottle.request.environ.get("wsgi.websocket")
    if not ws:
        bottle.abort(400, "Expected a WebSocket.")
    if bottle_name() is None:
        bottle.abort(401, "Log in first.")
    for message in ws:
        ws.send(f"{bottle_name()} in {bottle.request.query.room}: {message}")
    return "swallowed\n"


def bottle_name() -> str | None:
    return bottle.request.get_cookie("name", secret=SECRET)


@bottle_app.get("/moved")
def bottle_moved():
    bottle.redirect("/chat")


@bottle_app.get("/crash")
def bottle_crash():
    bottle.request.environ["wsgi.websocket"].send("about to fail")
    raise ZeroDivisionError("the fault of Bottle's view")


@bottle_app.get("/crash-early")
def bottle_crash_early():
    raise ZeroDivisionError("the early fault of Bottle's view")


@bottle_app.get("/who")
def bottle_who():
    """Tells whom and what the framework takes the client and itself for."""
    request = bottle.request
    address, url = request.environ["REMOTE_ADDR"], request.urlparts
    request.environ["wsgi.websocket"].send(f"{address} at {url.scheme}://{url.netloc}/")


# ----------------------------------------------------------------- middleware


class Stamp:
    """Wraps ``start_response`` and the result, as timing and header middleware does."""

    def __init__(self, application) -> None:
        self.application = application

    def __call__(self, environ, start_response):
        def stamped(status, headers, exc_info=None):
            return start_response(status, [*headers, ("X-Stamp", status[:3])], exc_info)

        result = self.application(dict(environ), stamped)
        try:
            yield from result
        finally:
            print("stamped", environ["PATH_INFO"], file=environ["wsgi.errors"], flush=True)
            if hasattr(result, "close"):
                result.close()


def stack(application):
    return ProxyFix(Stamp(application), x_for=1, x_proto=1, x_host=1)


flask_stack = stack(flask_app)
bottle_stack = stack(bottle_app)
