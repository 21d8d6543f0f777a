"""The conversation with one page over its WebSocket: states out, commands in.

Both directions are greenlets of their own, since either may have to wait: the one that sends for
a slow network, the one that receives for a person to make up their mind.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress

import gevent
from ballots import Unavailable
from stage import Page, Refused, Stage

from geventws import ConnectionClosed, WebSocket, WebSocketError

# The options of the server that this conversation asks for.
LIMITS = {
    "max_message_size": 512,  # bytes, more than any command has
    # Behind a slow network send() waits after a few states instead of piling up old ones.
    "max_send_buffer": 4096,
}
# The minimum number of seconds between two states for a page: a burst of votes from a
# thousand phones must not become a million messages. The first one after a quiet time is instant.
BETWEEN_STATES = 0.05
# A state is repeated after this long without news. Scripts cannot see WebSocket pings, and this
# is how a phone notices that it fell off the network (see scene.js).
SIGN_OF_LIFE = 20.0
# A page that sends commands faster than this waits in its own TCP connection, not in our memory.
BETWEEN_COMMANDS = 0.05

Command = dict[str, object]
Commands = Mapping[str, Callable[[Command], None]]


def converse(ws: WebSocket, stage: Stage, page: Page, commands: Commands) -> None:
    """Keep ``page`` informed and carry out its ``commands`` until it leaves."""
    # A page may leave whenever it likes, also in the middle of an answer: that is no error.
    with suppress(WebSocketError), stage.watched_by(page):
        ws.accept()  # Before there are two greenlets that could be the first to use it.
        sender = gevent.spawn(send_states, ws, stage, page)
        try:
            for message in ws:  # Ends when the peer closes, or is lost.
                answer(ws, message, commands)
                gevent.sleep(BETWEEN_COMMANDS)
        finally:
            sender.kill()


def send_states(ws: WebSocket, stage: Stage, page: Page) -> None:
    """Send the newest state whenever there is news, for as long as the page is there."""
    with suppress(ConnectionClosed):  # The loop that receives notices it, too, and ends us both.
        while True:
            page.wait_for_news(SIGN_OF_LIFE)
            ws.send(stage.state_for(page.voter))
            gevent.sleep(BETWEEN_STATES)


def answer(ws: WebSocket, message: str | bytes, commands: Commands) -> None:
    """Carry out one command. Success shows in the next state; a refusal is told in words."""
    try:
        command = parse(message)
        do = commands.get(str(command.get("do")))
        if do is None:
            raise Refused(f'"do" must be one of: {", ".join(commands)}.')
        do(command)
    except Refused as refusal:
        ws.send(json.dumps({"type": "refused", "reason": str(refusal)}))
    except Unavailable:
        reason = "Votes cannot be counted at the moment. Please try again."
        ws.send(json.dumps({"type": "refused", "reason": reason}))


def parse(message: str | bytes) -> Command:
    try:
        command = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise Refused("A command must be JSON.") from error
    if not isinstance(command, dict):
        raise Refused("A command must be a JSON object.")
    return command


def number(command: Command, key: str) -> int:
    value = command.get(key)
    # Not isinstance(): true and false are ints, too.
    if type(value) is not int:
        raise Refused(f'"{key}" must be a whole number.')
    return value
