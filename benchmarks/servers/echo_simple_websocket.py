"""simple-websocket under a gevent worker of gunicorn."""

import os
import sys

subscribers = set()


def app(environ, start_response):
    from simple_websocket import ConnectionClosed, Server  # noqa: PLC0415 - after gevent's patches

    ws = Server.accept(environ)
    try:
        if environ["PATH_INFO"] == "/broadcast":
            subscribers.add(ws)
        while True:
            message = ws.receive()
            for each in list(subscribers) if ws in subscribers else [ws]:
                each.send(message)
    except ConnectionClosed:
        subscribers.discard(ws)  # that is how it says that the peer has left
    raise StopIteration  # which tells gunicorn that there is no response


if __name__ == "__main__":
    gunicorn = [sys.executable, "-m", "gunicorn", "--worker-class", "gevent", "--workers", "1"]
    limits = ["--worker-connections", "10000", "--log-level", "critical"]
    where = ["--bind", f"127.0.0.1:{sys.argv[1]}", "--chdir", os.path.dirname(__file__)]
    command = [*gunicorn, *limits, *where, "echo_simple_websocket:app"]
    os.execv(sys.executable, command)  # noqa: S606 - a shell would be one process more
