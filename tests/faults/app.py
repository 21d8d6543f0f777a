"""The application of the trials, for the workers of gunicorn.

``BROADCAST_URL`` and ``HISTORY`` are the options of its ``Broadcast``. All data is JSON.

- ``/listen/<channel>?since=<id>`` subscribes. The client receives ``[id, text]`` for each message,
  and ``{"pid": …, "recovered": …}`` at the beginning. If ``recovered`` is null at first, the client
  receives the object again as soon as the value is known.
- ``/publish`` publishes each ``[channel, text]`` of the client, and answers with ``[text, id]``.
  The id is null if ``publish()`` raised BroadcastError.
"""

import json
import os
from urllib.parse import parse_qs

import gevent

from geventws import Broadcast, BroadcastError, ConnectionClosed

broadcast = Broadcast(
    os.environ["BROADCAST_URL"],
    history=int(os.environ["HISTORY"]),
    envelope=lambda message, id_: json.dumps([id_, message]),
)


def app(environ, start_response):
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(broadcast.healthy).encode()]
    what, _, channel = environ["PATH_INFO"][1:].partition("/")
    if what == "publish":
        publish(ws)
    else:
        since = parse_qs(environ["QUERY_STRING"], keep_blank_values=True).get("since", [None])[0]
        try:
            listen(ws, channel, since)
        except BroadcastError as problem:
            ws.close(1011, str(problem)[:100])  # Redis refuses this channel
    return []


def publish(ws):
    for message in ws:
        channel, text = json.loads(message)
        try:
            id_ = broadcast.publish(channel, text)
        except BroadcastError:
            id_ = None
        ws.send(json.dumps([text, id_]))


def listen(ws, channel, since):
    with broadcast.subscribe(channel, ws, since) as subscription:
        tell_recovered(ws, subscription.recovered)
        waiting = None
        if subscription.recovered is None:
            waiting = gevent.spawn(wait_recovered, ws, subscription)
        try:
            for _ in ws:
                pass
        finally:
            if waiting is not None:
                waiting.kill()


def tell_recovered(ws, recovered):
    ws.send(json.dumps({"pid": os.getpid(), "recovered": recovered}))


def wait_recovered(ws, subscription):
    while subscription.recovered is None:
        if hasattr(subscription, "wait_recovered"):
            subscription.wait_recovered(1)
        gevent.sleep(0.01)
    try:
        tell_recovered(ws, subscription.recovered)
    except ConnectionClosed:
        pass  # the loop over the messages ends, too
