"""Django, Pyramid, and a stack of middleware; each knows nothing but ``environ``."""

import warnings
from pathlib import Path
from typing import ClassVar

import django.http
import django.urls
import sentry_sdk
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.core.wsgi import get_wsgi_application
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware
from sentry_sdk.transport import Transport
from werkzeug.middleware.proxy_fix import ProxyFix
from whitenoise import WhiteNoise

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # WebOb imports cgi, Pyramid pkg_resources
    from pyramid.config import Configurator
    from pyramid.httpexceptions import HTTPForbidden
    from pyramid.response import Response

# ---------------------------------------------------------------------- Django

settings.configure(
    SECRET_KEY="not much of a secret",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
)


def django_login(request, name):
    request.session["name"] = name
    return django.http.HttpResponse("welcome")


def django_chat(request, room):
    ws = request.META.get("wsgi.websocket")
    if ws is None:
        return django.http.HttpResponseBadRequest("Expected a WebSocket.")
    if "name" not in request.session:
        raise PermissionDenied
    for message in ws:
        ws.send(f"{request.session['name']} in {room}: {message}")
    return django.http.HttpResponse("swallowed")


def django_crash(request):
    request.META["wsgi.websocket"].send("about to fail")
    raise ZeroDivisionError("the view's fault")


urlpatterns = [
    django.urls.path("login/<name>", django_login),
    django.urls.path("chat/<room>", django_chat),
    django.urls.path("crash", django_crash),
]
django_app = get_wsgi_application()

# --------------------------------------------------------------------- Pyramid


def pyramid_login(request):
    response = Response("welcome")
    response.set_cookie("name", request.matchdict["name"])
    return response


def pyramid_chat(request):
    ws = request.environ.get("wsgi.websocket")
    if ws is None:
        return Response("Expected a WebSocket.", status=400)
    if "name" not in request.cookies:
        raise HTTPForbidden
    for message in ws:
        ws.send(f"{request.cookies['name']} in {request.matchdict['room']}: {message}")
    return Response("swallowed")


def pyramid_crash(request):
    request.environ["wsgi.websocket"].send("about to fail")
    raise ZeroDivisionError("the view's fault")


with Configurator() as config:
    for name, pattern, view in [
        ("login", "/login/{name}", pyramid_login),
        ("chat", "/chat/{room}", pyramid_chat),
        ("crash", "/crash", pyramid_crash),
    ]:
        config.add_route(name, pattern)
        config.add_view(view, route_name=name)
    pyramid_app = config.make_wsgi_app()

# ------------------------------------------------------------------ middleware


class Kept(Transport):
    """Stores the events instead of sending them to Sentry."""

    events: ClassVar[list[dict]] = []

    def capture_envelope(self, envelope) -> None:
        event = envelope.get_event()
        if event is not None:
            self.events.append(event)


def stack(application):
    """ProxyFix around WhiteNoise around Sentry around an application."""
    sentry_sdk.init(
        "http://key@127.0.0.1/1",
        transport=Kept,
        default_integrations=False,
        auto_enabling_integrations=False,
        auto_session_tracking=False,
    )
    return ProxyFix(
        WhiteNoise(SentryWsgiMiddleware(application), root=Path(__file__).parent / "node"),
        x_for=1,
        x_proto=1,
        x_host=1,
    )


def plain(environ, start_response):
    """Without a framework: tells who the client is, and fails when asked to."""
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("426 Upgrade Required", [("Upgrade", "websocket")])
        return [b"Expected a WebSocket."]
    if environ["PATH_INFO"] == "/refused":
        start_response("403 Forbidden", [("Content-Type", "text/plain")])
        return [b"Not you."]
    ws.send(f"{environ['REMOTE_ADDR']} {environ['wsgi.url_scheme']}")
    for message in ws:
        if message == "fail":
            raise ZeroDivisionError("the view's fault")
        ws.send(message)
    return []


plain_stack = stack(plain)
django_stack = stack(django_app)
pyramid_stack = stack(pyramid_app)
