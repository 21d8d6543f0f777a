"""A parrot as the readers of Bottle's page on asynchronous applications write one."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402 - patch first, as the documentation says

from bottle import Bottle, abort, request  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402

from geventws import WebSocketError  # noqa: E402
from geventws.server.handler import WebSocketHandler  # noqa: E402

parrots = Bottle()


@parrots.route("/parrot")
def parrot():
    socket = request.environ.get("wsgi.websocket")
    if not socket:
        abort(400, "This parrot talks to WebSockets only.")
    while True:
        try:
            heard = socket.receive()
            socket.send(f"Polly says {heard}")
        except WebSocketError:
            break
    print("Polly heard", heard, "in the end", file=sys.stderr, flush=True)


server = WSGIServer(("127.0.0.1", 0), parrots, handler_class=WebSocketHandler)
server.start()
print(f"Polly sits at http://127.0.0.1:{server.server_port}/parrot", file=sys.stderr, flush=True)
server.serve_forever()
