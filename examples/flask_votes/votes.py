"""A story that an audience decides, step by step, from their phones. Run: ``python votes.py``.

This file is the Flask application and the program around it. The WebSocket views are
:func:`audience_live` and :func:`presenter_live`. What happens after them is in ``dialogue.py``.
"""

if __name__ == "__main__":
    # Calls of Redis must not block other greenlets. gunicorn's worker patches automatically.
    from gevent import monkey

    monkey.patch_all()

import hmac
import os
import re
import secrets
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast
from urllib.parse import quote, urlsplit

import gevent
import segno
from ballots import Ballots, Unavailable, opened
from dialogue import LIMITS, Command, converse, number
from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from flask.typing import ResponseReturnValue
from stage import Stage
from story import Story, StoryError, load
from werkzeug.exceptions import HTTPException

from geventws import WebSocketMiddleware, WebSocketServer, js

HERE = Path(__file__).parent
VOTER = "votes_voter"
PRESENTER = "votes_presenter"
#: The headings of error pages. Other errors have their names in HTTP.
HEADINGS = {403: "This page is for the presenter", 404: "There is no such page"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}

pages = Blueprint("votes", __name__)


def create_app(stage: Stage, presenter_token: str, audience_url: str = "") -> Flask:
    app = Flask(__name__)
    app.config.update(STAGE=stage, PRESENTER_TOKEN=presenter_token, AUDIENCE_URL=audience_url)
    app.register_blueprint(pages)
    app.wsgi_app = js.serve(app.wsgi_app)  # the script with which the pages connect
    return app


def the_stage() -> Stage:
    return cast(Stage, current_app.config["STAGE"])


# ------------------------------------------------------------------------------ the audience


@pages.get("/")
def audience() -> Response:
    response = make_response(render_template("audience.html", title=the_stage().story.title))
    if voter() is None:
        # The cookie is a random name for this browser; there is nothing to sign in it.
        response.set_cookie(
            VOTER, secrets.token_urlsafe(16), max_age=7 * 24 * 3600, httponly=True, samesite="Lax"
        )
    return response


# websocket=True: this rule is for WebSocket requests, and only such rules ever see them.
@pages.route("/live", websocket=True)
def audience_live() -> ResponseReturnValue:
    name = voter()
    if name is None:
        # The WebSocket is not in use yet, so an ordinary response still refuses it.
        return "Open the audience page first: it sets the cookie that you vote with.\n", 400
    stage = the_stage()

    def vote(command: Command) -> None:
        stage.vote(name, number(command, "round"), number(command, "option"))

    converse(request.environ["wsgi.websocket"], stage, name, {"vote": vote})
    return ""  # The conversation has begun: nobody gets this, but a Flask view returns something.


def voter() -> str | None:
    name = request.cookies.get(VOTER, "")
    # Cookies are untrusted input: ignore a cookie that this server cannot have set.
    return name if re.fullmatch(r"[\w-]{22}", name, re.ASCII) else None


# ----------------------------------------------------------------------------- the presenter


@pages.get("/presenter")
def presenter() -> ResponseReturnValue:
    if "token" in request.args:
        return sign_in(request.args["token"])
    if not is_presenter(request.cookies.get(PRESENTER)):
        abort(403, "Open it with the link that the program printed when it started.")
    url = current_app.config["AUDIENCE_URL"] or url_for("votes.audience", _external=True)
    title = the_stage().story.title
    return render_template("presenter.html", title=title, audience_url=url, qr=segno.make_qr(url))


@pages.route("/presenter/live", websocket=True)
def presenter_live() -> ResponseReturnValue:
    if not is_presenter(request.cookies.get(PRESENTER)):
        abort(403)
    stage = the_stage()
    commands = {
        "next": lambda command: stage.advance(number(command, "round")),
        "restart": lambda command: stage.restart(number(command, "round")),
    }
    converse(request.environ["wsgi.websocket"], stage, None, commands)
    return ""


def sign_in(token: str) -> ResponseReturnValue:
    """Move the token from the address to a cookie: the address bar will be on a projector."""
    if not is_presenter(token):
        abort(403, "This is not the presenter's link, or it is one from an earlier show.")
    response = redirect(url_for("votes.presenter"))
    response.set_cookie(PRESENTER, token, httponly=True, samesite="Lax")
    return cast(Response, response)


def is_presenter(token: str | None) -> bool:
    expected: str = current_app.config["PRESENTER_TOKEN"]
    # In constant time: how long a comparison takes must not tell how much of a guess was right.
    return token is not None and hmac.compare_digest(token.encode(), expected.encode())


# -------------------------------------------------------------------------------- every page


@pages.app_errorhandler(HTTPException)
def sorry(error: HTTPException) -> ResponseReturnValue:
    heading = HEADINGS.get(error.code, error.name)
    return render_template("sorry.html", heading=heading, error=error), error.code or 500


@pages.after_app_request
def add_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Cache-Control", "no-store")
    return response


# ------------------------------------------------------------------------------- the program


def main() -> None:
    """``python votes.py``: serve the show with one process."""
    votes_path = Path(os.environ.get("VOTES", HERE / "votes.sqlite3"))
    try:
        with the_show(votes_path) as (stage, ballots):
            serve(stage, ballots)
    except StoryError as error:
        sys.exit(str(error))
    except Unavailable as error:
        sys.exit(f"The show cannot begin: {error}.")
    except sqlite3.Error as error:
        sys.exit(f"{votes_path}: the votes cannot be read ({error}).")


def worker() -> WebSocketMiddleware:
    """``gunicorn -k geventws.Worker -w 4 'votes:worker()'``: one of several that share a Redis."""
    if "BROADCAST_URL" not in os.environ:
        sys.exit("Several workers need a Redis to share: set BROADCAST_URL=redis://localhost.")
    stage, ballots = shared_show(os.environ["BROADCAST_URL"])
    token = the_token(ballots)
    url = os.environ.get("PUBLIC_URL", "")
    print(f"You present at         {url.rstrip('/')}/presenter?token={quote(token)}", flush=True)
    app = create_app(stage, token, url)
    return WebSocketMiddleware(app, allowed_origins=origins(), **LIMITS)


@contextmanager
def the_show(votes_path: Path) -> Iterator[tuple[Stage, Ballots]]:
    """The stage and its ballots: in Redis if that is where others look, else in a file."""
    if url := os.environ.get("BROADCAST_URL"):
        yield shared_show(url)
    else:
        with opened(votes_path) as ballots:
            stage = Stage(the_story(), ballots)
            gevent.spawn(stage.repeat)
            yield stage, ballots


def shared_show(url: str) -> tuple[Stage, Ballots]:
    from shared_ballots import SharedBallots  # noqa: PLC0415 - it needs redis-py
    from workers import News  # noqa: PLC0415

    ballots, news = SharedBallots(url), News(url)
    stage = Stage(the_story(), ballots, announce=news.announce)
    news.keep_fresh(stage)
    return stage, ballots


def the_story() -> Story:
    return load(Path(os.environ.get("STORY", HERE / "story.txt")))


def the_token(ballots: Ballots) -> str:
    return os.environ.get("PRESENTER_TOKEN") or ballots.secret("presenter")


def serve(stage: Stage, ballots: Ballots) -> None:
    token = the_token(ballots)
    host, port = os.environ.get("BIND", "0.0.0.0"), int(os.environ.get("PORT", "8080"))
    app = create_app(stage, token)
    server = WebSocketServer((host, port), app, log=None, allowed_origins=origins(), **LIMITS)
    for wish in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(wish, server.stop)  # Says goodbye to every page (1001).
    try:
        server.start()
    except OSError as error:
        reason = str(error.strerror).partition(":")[0]  # gevent appends the address
        sys.exit(f"Cannot listen on {host}:{port} ({reason}). Set PORT to use another one.")
    app.config["AUDIENCE_URL"] = url = public_url(host, server.server_port)
    print(f"The audience votes at  {url}")
    print(f"You present at         {url}presenter?token={quote(token)}", flush=True)
    server.serve_forever()


def public_url(host: str, port: int) -> str:
    url = os.environ.get("PUBLIC_URL") or f"http://{reachable(host)}:{port}"
    return url.rstrip("/") + "/"


def origins() -> list[str]:
    """The sites whose pages may connect: ours, under the names that it has."""
    public = urlsplit(os.environ.get("PUBLIC_URL", ""))
    return ["self", f"{public.scheme}://{public.netloc}"] if public.netloc else ["self"]


def reachable(host: str) -> str:
    """An address by which phones in the same network find a server that listens on ``host``."""
    if host != "0.0.0.0":
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # Sends nothing: it only makes the system pick a route.
        return cast(str, probe.getsockname()[0])
    return "localhost"


if __name__ == "__main__":
    main()
