"""The applications of Socket.IO, without the libraries for WebSockets that Engine.IO asks for."""

import sys

# Installed for the libraries' sake, and not to be found: geventws must be enough.
sys.modules["simple_websocket"] = None  # type: ignore[assignment]
sys.modules.setdefault("geventwebsocket", None)  # type: ignore[arg-type]

if __name__ == "__main__":
    import geventws.engineio

    geventws.engineio.install()

from tests.support.socketio_apps import flask_app, flask_socketio_, plain_app  # noqa: E402, F401

if __name__ == "__main__":
    port = int(sys.argv[1])
    print(f"http://127.0.0.1:{port}", file=sys.stderr, flush=True)
    flask_socketio_.run(flask_app, port=port, log_output=True)
