from gevent import monkey

monkey.patch_all()
from geventws.compat import install_as_geventwebsocket

install_as_geventwebsocket()

import sys

import gevent
import gevent.queue
from geventwebsocket.server import WebSocketServer
from tinyrpc.dispatch import RPCDispatcher
from tinyrpc.protocols.jsonrpc import JSONRPCProtocol
from tinyrpc.server.gevent import RPCServerGreenlets
from tinyrpc.transports.websocket import WSServerTransport

dispatcher = RPCDispatcher()


@dispatcher.public
def add(a, b):
    return a + b


transport = WSServerTransport(queue_class=gevent.queue.Queue)
server = WebSocketServer(("127.0.0.1", int(sys.argv[1])), transport.handle)
print(f"http://127.0.0.1:{sys.argv[1]}", file=sys.stderr, flush=True)
gevent.spawn(server.serve_forever)
RPCServerGreenlets(transport, JSONRPCProtocol(), dispatcher).serve_forever()
