"""Both cores in one process, fed with the same bytes and compared with the model."""

import importlib.util
import itertools
from unittest import mock

from geventws.protocol import reader, reader_py
from geventws.protocol.permessage_deflate import Agreement, Deflate, PerMessageDeflate
from geventws.protocol.state import State
from tests.fuzz.model import Model, Outcome
from tests.support.endpoints import opened


def endpoint_over(frame_reader: type) -> type:
    """The class Endpoint on top of one of the readers, whichever was selected."""
    spec = importlib.util.find_spec("geventws.protocol.endpoint")
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(reader, "FrameReader", frame_reader):
        spec.loader.exec_module(module)
    return module.Endpoint


CORES = {"python": endpoint_over(reader_py.FrameReader)}
if importlib.util.find_spec("geventws.protocol._reader") is not None:
    from geventws.protocol import _reader

    CORES["compiled"] = endpoint_over(_reader.FrameReader)


class Run:
    """One protocol with what it has said and done."""

    def __init__(self, protocol) -> None:
        self.protocol = protocol
        self.messages = []
        self.sent = b""
        self.shared = bytearray(1 << 16)
        self.unfinished = []

    def feed(self, piece: bytes, borrowed: bool) -> None:
        protocol = self.protocol
        if borrowed:
            self.shared[: len(piece)] = piece
            protocol.borrow(self.shared, len(piece))
        else:
            protocol.receive_data(piece)
        while (message := protocol.next_message()) is not None or protocol.interrupted:
            protocol.interrupted = False
            if message is not None:
                self.messages.append(message)
        if borrowed:
            protocol.keep()
            self.shared[: len(piece)] = b"\xaa" * len(piece)
        if protocol.state is State.OPEN:
            self.unfinished.append(protocol.unfinished() != 0)
        self.take_output()

    def close(self, code: int) -> None:
        self.protocol.close(code)
        self.take_output()

    def take_output(self) -> None:
        self.sent += self.protocol.take_output()

    @property
    def story(self) -> tuple:
        """All that can be seen from outside."""
        protocol = self.protocol
        return (
            self.messages,
            [type(each) for each in self.messages],
            protocol.state,
            protocol.close_code,
            protocol.close_reason,
            protocol.close_received,
            protocol.closed_by_peer,
            type(protocol.error),
            str(protocol.error),
            protocol.pong,
            self.unfinished,
            b"" if protocol.is_client else self.sent,
        )

    @property
    def outcome(self) -> Outcome:
        """What the model tells, too."""
        protocol = self.protocol
        fault = protocol.error.close_code if protocol.error else None
        return Outcome(
            self.messages,
            answers_of(self.sent, protocol.is_client, fault),
            protocol.state >= State.DRAINING,
            protocol.close_code,
            fault,
        )


def answers_of(sent: bytes, masked: bool, fault: int | None) -> list:
    """The control frames that were sent, as the model has them; there are no others."""
    answers = []
    while sent:
        first, size = sent[0], sent[1] & 0x7F
        start = 6 if masked else 2
        payload = sent[start : start + size]
        if masked:
            payload = bytes(a ^ sent[2 + i % 4] for i, a in enumerate(payload))
        assert first in {0x88, 0x8A}, first
        if first == 0x8A:
            answers.append(("pong", payload))
        else:
            code = int.from_bytes(payload[:2], "big") if payload else 1005
            answers.append(("close", code, None if code == fault else payload[2:].decode()))
        sent = sent[start + size :]
    return answers


def check(
    stream: bytes,
    cuts: list[int],
    *,
    client: bool = False,
    max_message_size: int = 1 << 20,
    close_at: int | None = None,
    borrowed: bool = True,
    agreement: Agreement | None = None,
) -> Outcome:
    """Feed a stream, cut into pieces, to both cores and to the model; all must agree.

    :param cuts: where pieces end, in ascending order.
    :param close_at: before which piece this side closes with 4000.
    :param agreement: on permessage-deflate, of which the model knows nothing.
    :raises AssertionError: when they do not.
    """
    runs = [
        Run(
            opened(
                client,
                max_message_size,
                agreement and PerMessageDeflate.of(agreement, Deflate(), client=client),
                core,
            )
        )
        for core in CORES.values()
    ]
    model = Model(client, max_message_size)
    bounds = [0, *cuts, len(stream)]
    for i, (start, end) in enumerate(itertools.pairwise(bounds)):
        if i == close_at:
            model.close(4000)
            for run in runs:
                run.close(4000)
        model.advance(stream[:end])
        for run in runs:
            run.feed(stream[start:end], borrowed)
    for run in runs:
        assert run.story == runs[0].story, (runs[0].story, run.story)
        if agreement is None:
            assert run.outcome == model.outcome, (run.outcome, model.outcome)
    return runs[0].outcome
