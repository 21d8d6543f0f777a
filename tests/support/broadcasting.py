"""What the tests of a broadcast across processes serve; ``BROADCAST_URL`` says through what.

A WebSocket at ``/channel?since=id`` hears the channel as ``<id> <message>``, after ``ready <pid>
<recovered> <position>``, and publishes what it sends; what cannot be published is answered with
``refused``. With ``&member=key``, it is a member; with ``&open=yes``, it is open before that.
Plain requests: ``/healthy``, ``/stats``, ``/live`` (the number of channels whose messages arrive),
``/free`` (the number of free connections), ``/count/channel``, ``/members/channel``,
``/listeners/channel``, ``/lost/channel`` (listens until messages are lost), ``/fork/channel`` (a
forked process publishes), ``/flood/number`` (so many greenlets publish at once), and
``/interrupted/number`` (they are interrupted); ``/together/number-name`` joins so many channels,
and ``/listen/…``, ``/unchecked/…`` and ``/impatient/…`` one, whose name is there in JSON.
"""

import dataclasses
import json
import os
from urllib.parse import parse_qs

import gevent

from geventws import Broadcast, BroadcastError, stats


def envelope(message, id_):
    if message == "poison":
        raise ValueError(message)
    return f"{id_ or '-'} {message}"


broadcast = Broadcast(
    os.environ["BROADCAST_URL"],
    history=int(os.environ.get("HISTORY", "0")),
    envelope=envelope,
)


def app(environ, start_response):
    ws = environ.get("wsgi.websocket")
    path = environ["PATH_INFO"][1:]
    if ws is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [answer(path).encode()]
    query = parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
    since, member = query.get("since", [None])[0], query.get("member", [None])[0]
    if "open" in query:
        ws.accept()
    with broadcast.subscribe(path, ws, since, member=member, key=member) as subscription:
        position = subscription.position
        ws.send(f"ready {os.getpid()} {subscription.recovered} {position}")
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


def listen_until_lost(channel):
    """Return how many messages were lost, and how many a second listener has lost by then."""
    with broadcast.listen(channel) as messages, broadcast.listen(channel) as other:
        for _ in messages:
            if messages.lost:
                return f"{messages.lost} {other.lost}"
    return "closed"


def join_together(number, name):
    """Join many channels at once, and stay."""
    joins = [gevent.spawn(broadcast.listen, f"{name}-{i}") for i in range(number)]
    KEPT.extend(gevent.joinall(joins, raise_error=True))
    return "joined"


def fork(channel):
    """Publish in a forked process, and in this one meanwhile and after that."""
    pid = os.fork()
    if pid == 0:
        try:
            for number in range(20):
                broadcast.publish(channel, f"child {number}")
            gevent.sleep(0.1)  # its event loop runs, with the descriptors of this process
        finally:
            os._exit(0)
    for number in range(20):
        broadcast.publish(channel, f"parent {number}")
        gevent.sleep(0.01)
    os.waitpid(pid, 0)
    broadcast.publish(channel, "last")
    return "forked"


def interrupt(number):
    """Interrupt publishers at any moment, while they compete for connections."""

    def publish(i):
        with gevent.Timeout(i % 50 * 1e-4, False):
            broadcast.publish("interrupted", str(i))

    gevent.joinall([gevent.spawn(publish, i) for i in range(number)])
    return f"{number} tried"


def flood(number):
    """Publish in many greenlets at once."""
    publishers = [gevent.spawn(broadcast.publish, "flood", str(i)) for i in range(number)]
    gevent.joinall(publishers)
    problems = {str(it.exception) for it in publishers if it.exception is not None}
    return problems.pop() if problems else f"{number} published"


#: What must not be collected.
KEPT = []

JOINING = {
    "briefly": join_briefly,
    "listen": listen,
    "unchecked": join_unchecked,
    "impatient": join_impatiently,
}


def answer(path):
    if path == "healthy":
        return str(broadcast.healthy)
    if path == "stats":
        return json.dumps(dataclasses.asdict(stats()))
    if path == "live":
        return str(sum(state.is_live for state in broadcast._backend.channels.values()))
    how, _, name = path.partition("/")
    if how == "lost":
        return listen_until_lost(name)
    if how == "fork":
        return fork(name)
    if how == "members":
        return json.dumps(broadcast.members(name))
    if how == "free":
        return str(broadcast._backend._commander().free_connections.counter)
    if how == "interrupted":
        return interrupt(int(name))
    if how == "flood":
        return flood(int(name))
    if how == "listeners":
        return str(len(broadcast._channels[name].listeners) // 2)
    if how == "together":
        count, _, name = name.partition("-")
        return join_together(int(count), name)
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
