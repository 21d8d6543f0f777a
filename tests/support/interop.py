"""The site for third-party clients: the views of all tests, and a few more."""

from tests.support import apps


def site(environ, start_response):
    view = VIEWS.get(environ["PATH_INFO"], apps.site)
    return view(environ, start_response)


def farewell(environ, start_response):
    """Tells in the log how the client has taken its leave."""
    ws = environ["wsgi.websocket"]
    received = len(list(ws))
    print(
        f"after {received} messages {ws.close_code} {ws.close_reason!r}",
        file=environ["wsgi.errors"],
        flush=True,
    )
    return []


def ping(environ, start_response):
    """Asks whether the client is there, and tells it whether it has answered."""
    ws = environ["wsgi.websocket"]
    ws.ping(b"are you there?")
    ws.send("what do you say?")
    ws.receive()
    ws.receive()
    ws.send("no answer" if ws.latency is None else "answered")
    return []


def icon(environ, start_response):
    """Browsers ask for it unasked."""
    start_response("204 No Content", [])
    return []


VIEWS = {"/favicon.ico": icon, "/farewell": farewell, "/ping": ping}
