"""What the tests of a broadcast across processes serve; ``BROADCAST_URL`` says through what.

A WebSocket at ``/channel?since=id`` hears the channel, after ``ready <pid> <recovered>``, as
``<id> <message>``, and publishes what it sends; what cannot be published is answered with
``refused``. Plain requests: ``/healthy``, ``/count/channel``, and ``/listen/…``, ``/unchecked/…``
and ``/impatient/…``, which join the channel whose name is there in JSON.
"""

import json
import os
from urllib.parse import parse_qs

import gevent

from geventws import Broadcast, BroadcastError

broadcast = Broadcast(
    os.environ["BROADCAST_URL"],
    history=int(os.environ.get("HISTORY", "0")),
    envelope=lambda message, id_: f"{id_ or '-'} {message}",
)


def app(environ, start_response):
    ws = environ.get("wsgi.websocket")
    path = environ["PATH_INFO"][1:]
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [answer(path).encode()]
    since = parse_qs(environ["QUERY_STRING"], keep_blank_values=True).get("since", [None])[0]
    with broadcast.subscribe(path, ws, since) as subscription:
        ws.send(f"ready {os.getpid()} {subscription.recovered}")
        for message in ws:
            try:
                broadcast.publish(path, message)
            except BroadcastError:
                ws.send("refused")
    return []


def listen(channel):
    with broadcast.listen(channel):
        pass


def join_unchecked(channel):
    """Subscribe without the checks of the public method."""
    broadcast._backend.subscribe(channel)


def join_impatiently(channel):
    """Be interrupted at any moment of it."""
    for number in range(100):
        with gevent.Timeout(number * 5e-5, False), broadcast.listen(f"{channel}{number}"):
            gevent.sleep(0)


def join_briefly(channel):
    """Be interrupted while Redis does not answer."""
    with gevent.Timeout(0.5, False), broadcast.listen(channel):
        gevent.sleep(5)


JOINING = {
    "briefly": join_briefly,
    "listen": listen,
    "unchecked": join_unchecked,
    "impatient": join_impatiently,
}


def answer(path):
    if path == "healthy":
        return str(broadcast.healthy)
    how, _, name = path.partition("/")
    try:
        if how in JOINING:
            JOINING[how](json.loads(name))
            return "joined"
    except ValueError as problem:
        return f"refused: {problem}"
    try:
        return str(broadcast.subscribers(path.removeprefix("count/")))
    except BroadcastError as problem:
        return str(problem)
