"""The conversation with one page over its WebSocket: states out, commands in.

The WebSocket is detached from its view: while nothing happens, a page has no greenlet.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress

import gevent
from ballots import Unavailable
from stage import Page, Refused, Stage

from geventws import WebSocket, WebSocketError

# The options of the server that this conversation asks for.
LIMITS = {
    "max_message_size": 512,  # bytes, more than any command has
    # Behind a slow network send() waits after a few states instead of piling up old ones.
    "max_send_buffer": 4096,
}
# A page that sends commands faster than this waits in its own TCP connection, not in our memory.
BETWEEN_COMMANDS = 0.05

Command = dict[str, object]
Commands = Mapping[str, Callable[[Command], None]]


def converse(ws: WebSocket, stage: Stage, voter: str | None, commands: Commands) -> None:
    """Keep a page informed and carry out its ``commands`` until it leaves; returns at once."""

    def carry_out(ws: WebSocket, message: str | bytes) -> None:
        answer(ws, message, commands)
        gevent.sleep(BETWEEN_COMMANDS)

    page = Page(voter, lambda page: ws.send_json(stage.state_for(page.voter)))
    with suppress(WebSocketError):  # A page may leave whenever it likes: that is no error.
        ws.detach(carry_out, lambda _: stage.remove(page))
        stage.add(page)


def answer(ws: WebSocket, message: str | bytes, commands: Commands) -> None:
    """Carry out one command. Success shows in the next state; a refusal is told in words."""
    try:
        command = parse(message)
        do = commands.get(str(command.get("do")))
        if do is None:
            raise Refused(f'"do" must be one of: {", ".join(commands)}.')
        do(command)
    except Refused as refusal:
        ws.send_json({"type": "refused", "reason": str(refusal)})
    except Unavailable:
        reason = "Votes cannot be counted at the moment. Please try again."
        ws.send_json({"type": "refused", "reason": reason})


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
