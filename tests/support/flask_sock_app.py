"""flask-sock's way of writing, with nothing changed but the import."""

import sys

from flask import Flask

from geventws.flask import Sock

app = Flask(__name__)
sock = Sock(app)


@sock.route("/echo")
def echo(ws):
    while True:
        data = ws.receive()
        ws.send(data)


@sock.route("/patient/<float:seconds>")
def patient(ws, seconds):
    try:
        if ws.receive(timeout=seconds) is None:
            ws.send("nothing came")
        while True:
            ws.receive()
    finally:
        print("patient has ended", file=sys.stderr, flush=True)
