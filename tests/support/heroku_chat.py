"""A chat as the readers of Heroku's tutorial write one: flask-sockets, Redis, a Procfile's worker.

Every browser has two sockets: what it says goes into one, and comes out of everybody's other one.
"""

import os
import sys

import gevent
import redis
from flask import Flask, send_from_directory

from geventws.flask import Sockets  # was: from flask_sockets import Sockets

CHANNEL = "chat"

app = Flask(__name__)
sockets = Sockets(app)
store = redis.from_url(os.environ["REDIS_URL"])


class Chat:
    def __init__(self):
        self.listeners = []
        self.subscription = store.pubsub()
        self.subscription.subscribe(CHANNEL)

    def register(self, listener):
        self.listeners.append(listener)

    def tell(self, listener, text):
        try:
            listener.send(text)
        except Exception:  # noqa: BLE001 - as the tutorial has it
            self.listeners.remove(listener)

    def run(self):
        for message in self.subscription.listen():
            if message["type"] == "message":
                for listener in self.listeners:
                    gevent.spawn(self.tell, listener, message["data"].decode())


chat = Chat()
gevent.spawn(chat.run)


@app.route("/")
def page():
    return """<!doctype html><meta charset="utf-8"><ul></ul>
        <script src="/reconnecting.js"></script>
        <script>
            const at = (path) => new ReconnectingWebSocket(`ws://${location.host}${path}`);
            const inbox = at("/receive"), outbox = at("/submit");
            inbox.onmessage = ({data}) => {
                document.querySelector("ul").append(Object.assign(
                    document.createElement("li"), {textContent: data}));
            };
        </script>"""


@app.route("/reconnecting.js")
def reconnecting():
    return send_from_directory(os.environ["RECONNECTING"], "reconnecting-websocket-iife.min.js")


@sockets.route("/submit")
def inbox(ws):
    while not ws.closed:
        gevent.sleep(0.1)
        message = ws.receive()
        if message:
            store.publish(CHANNEL, message)
    print("the inbox has ended", file=sys.stderr, flush=True)


@sockets.route("/receive")
def outbox(ws):
    chat.register(ws)
    while not ws.closed:
        gevent.sleep(0.1)
    print("the outbox has ended", file=sys.stderr, flush=True)
