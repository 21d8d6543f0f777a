from geventws.compat import install_as_geventwebsocket

install_as_geventwebsocket(max_message_size=4 << 20)

import sys

sys.modules["simple_websocket"] = None  # not to be found

from engineio.async_drivers import gevent as driver

from tests.support.socketio_site import flask_app, flask_socketio_

assert driver.SimpleWebSocketWSGI is None  # it has found gevent-websocket
print(f"http://127.0.0.1:{sys.argv[1]}", file=sys.stderr, flush=True)
flask_socketio_.run(flask_app, port=int(sys.argv[1]), log_output=True)
