"""The server that :mod:`tests.checks.costs` measures, one step at a time.

It reads a command from standard input, does the work, and writes a number to standard output. While
it waits for a command, its event loop stands still: all input of a step is there when the step
begins, so that the number of instructions does not depend on the speed of the client.
"""

import os

import gevent
from gevent.event import Event

import geventws
from tests.checks.memory import used

#: Commands, the first of four bytes. The others are the number of events that a step waits for.
STEP, MARK, MEMORY = b"smu"


class Step:
    """A step ends with the last event that it expects."""

    def __init__(self) -> None:
        self.expected = 0
        self.done = Event()

    def note_event(self) -> None:
        self.expected -= 1
        if not self.expected:
            self.done.set()

    def run(self, events: int) -> None:
        self.expected = events
        self.done.clear()
        self.done.wait()
        for _ in range(3):
            gevent.sleep(0)  # greenlets end


step = Step()


def application(environ, start_response):
    ws = environ["wsgi.websocket"]
    if environ["PATH_INFO"] == "/detached":
        ws.detach(on_message, on_close)
        step.note_event()
        return []
    ws.accept()
    step.note_event()
    for message in ws:
        ws.send(message)
        step.note_event()
    step.note_event()
    return []


def on_message(ws, message):
    ws.send(message)
    step.note_event()


def on_close(ws):
    step.note_event()


def main() -> None:
    with open(os.devnull, "w") as log:
        server = geventws.WebSocketServer(("127.0.0.1", 0), application, log=log, backlog=1024)
        server.start()
        os.write(1, b"%d\n" % server.server_port)
        while command := os.read(0, 4):
            answer = 0
            if command[0] == STEP:
                step.run(int.from_bytes(command[1:], "big"))
            elif command[0] == MARK:
                os.getpriority(os.PRIO_PROCESS, 0)  # here, callgrind writes what it has counted
            else:
                answer = used()
            os.write(1, answer.to_bytes(8, "big"))


if __name__ == "__main__":
    main()
