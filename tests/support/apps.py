"""The applications that the tests serve, in the test's process and in others."""

import gc
import io
import os
from collections.abc import Iterable

import gevent

PLAIN = [("Content-Type", "text/plain")]


def echo(environ, start_response):
    """Echoes every message; without a WebSocket a 400."""
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("400 Bad Request", PLAIN)
        return [b"Expected a WebSocket request.\n"]
    for message in ws:
        ws.send(message)
    return []


def site(environ, start_response) -> Iterable[bytes]:
    """What a site may do with a request, one path each."""
    name = environ["PATH_INFO"].strip("/").replace("-", "_") or "echo"
    return VIEWS[name](environ, start_response)


def refuse(environ, start_response):
    start_response("401 Unauthorized", [*PLAIN, ("WWW-Authenticate", "Basic")])
    return [b"Who ", b"are you?\n"]


def redirect(environ, start_response):
    start_response("302 Found", [("Location", "/elsewhere"), ("Content-Length", "0")])
    return []


def refuse_in_pieces(environ, start_response):
    start_response("404 Not Found", PLAIN)
    yield b""
    yield b"Nothing "
    yield b"here\n"


def refuse_by_write(environ, start_response):
    start_response("403 Forbidden", PLAIN)(b"Go away\n")
    return []


def untouched(environ, start_response):
    return []


def page_faults(environ, start_response):
    """Sends how often the kernel has provided memory for blocks that come and go."""
    import resource  # not on Windows

    def come_and_go():
        return len([b"x" * (256 << 10) for _ in range(12)])

    come_and_go()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        come_and_go()
    environ["wsgi.websocket"].send(str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))
    return []


def frozen(environ, start_response):
    """Sends the number of objects that the garbage collector passes over."""
    environ["wsgi.websocket"].send(str(gc.get_freeze_count()))
    return []


def crash(environ, start_response):
    ws = environ["wsgi.websocket"]
    ws.send("about to fail")
    raise ZeroDivisionError("the view's fault")


def crash_early(environ, start_response):
    raise ZeroDivisionError("the view's fault")


def be_killed(environ, start_response):
    """A view that is killed while its WebSocket is open."""
    environ["wsgi.websocket"].send("about to be killed")
    raise gevent.GreenletExit


def be_killed_early(environ, start_response):
    raise gevent.GreenletExit


def fail_in_pieces(environ, start_response):
    start_response("404 Not Found", PLAIN)
    yield b"Nothing "
    raise ZeroDivisionError("the view's fault")


def framework_crash(environ, start_response):
    """The response of Flask and Bottle to an exception in a view."""
    ws = environ["wsgi.websocket"]
    ws.send("about to fail")
    start_response("500 Internal Server Error", PLAIN)
    return [b"Sorry\n"]


def close(environ, start_response):
    environ["wsgi.websocket"].close(4001, "not you")
    start_response("200 OK", PLAIN)
    return [b"swallowed"]


def leave(environ, start_response):
    environ["wsgi.websocket"].send("hello and goodbye")
    start_response("200 OK", PLAIN)
    return [b"swallowed"]


def generator(environ, start_response):
    """A view that runs only when its result is iterated."""
    ws = environ["wsgi.websocket"]
    start_response("200 OK", PLAIN)
    for message in ws:
        ws.send(message)
        yield b"swallowed"


def never_receive(environ, start_response):
    """Heroku's tutorial: a view that only checks whether the browser is connected."""
    ws = environ["wsgi.websocket"]
    while not ws.closed:
        gevent.sleep(0.01)
    print("noticed the end", file=environ["wsgi.errors"], flush=True)
    return []


def detached(environ, start_response):
    """A view that returns while its WebSocket stays open."""

    def on_message(ws, message):
        if message == "wait":
            gevent.sleep(0.01)
        if message == "fail":
            raise ZeroDivisionError("the view's fault")
        ws.send(message)

    def on_close(ws):
        print(f"detached, ended with {ws.close_code}", flush=True)

    environ["wsgi.websocket"].detach(on_message, on_close)
    start_response("200 OK", PLAIN)
    return [b"swallowed"]


def accept(environ, start_response):
    ws = environ["wsgi.websocket"]
    ws.accept(subprotocol="chat.v2", headers=[("Set-Cookie", "seen=1")])
    ws.send(ws.subprotocol)
    return []


def wait_then_send(environ, start_response):
    """Waits for something else before the first use: longer than browsers and proxies like."""
    ws = environ["wsgi.websocket"]
    gevent.sleep(4)
    ws.send("at last")
    return []


def plain(environ, start_response):
    start_response("200 OK", [*PLAIN, ("Content-Length", "5")])
    return [b"plain"]


def chunked(environ, start_response):
    start_response("200 OK", PLAIN)
    for i in range(3):
        yield b"piece %d\n" % i


def download(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    file = io.BytesIO(bytes(range(256)) * 1000)
    wrapper = environ.get("wsgi.file_wrapper")
    return wrapper(file) if wrapper else iter(lambda: file.read(8192), b"")


def upload(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", PLAIN)
    return [str(len(body)).encode()]


def whoami(environ, start_response):
    start_response("200 OK", PLAIN)
    return [str(os.getpid()).encode()]


def whose(environ, start_response):
    """Sends the number of its process, and waits for the end."""
    ws = environ["wsgi.websocket"]
    ws.send(str(os.getpid()))
    ws.receive()
    return []


VIEWS = {
    view.__name__: view
    for view in (
        echo,
        refuse,
        redirect,
        refuse_in_pieces,
        refuse_by_write,
        untouched,
        page_faults,
        frozen,
        crash,
        crash_early,
        be_killed,
        be_killed_early,
        fail_in_pieces,
        framework_crash,
        detached,
        close,
        leave,
        generator,
        never_receive,
        accept,
        plain,
        chunked,
        download,
        upload,
        wait_then_send,
        whoami,
        whose,
    )
}
