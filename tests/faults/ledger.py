"""The record of one trial, and the checks of it. Pure: no I/O, no clock.

Publishers add what they published, clients add what they received. :meth:`Ledger.check` compares
both. Messages are identified by their text: no publisher repeats a text.

A client has *sessions*: one for each of its connections. A *segment* is a series of sessions for
which the server promised that nothing is missing and nothing comes twice: each session after the
first one had the last id as ``since``, and ``recovered`` was true. All checks are about segments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import NamedTuple

TRY_AGAIN_LATER = 1013
#: The kinds of findings. Each of them makes a trial fail.
KINDS = (
    "duplicate",  # a message that a client received twice in one segment
    "disorder",  # a message that clients received in different orders, or after a later one
    "gap",  # a message that is missing in the middle of a segment
    "stray",  # a message of another channel, or one that nobody published
    "deaf",  # a client that did not receive the final message, or never got to know `recovered`
    "needless",  # `recovered` was false, or the server sent 1013, although Redis lost nothing
)


class Received(NamedTuple):
    """One message that a client received."""

    id: str
    text: str


@dataclass
class Publication:
    """One call of ``publish()``."""

    channel: str
    publisher: str
    number: int
    text: str
    #: The id that ``publish()`` returned. ``None`` if it raised BroadcastError, or if its outcome
    #: is unknown: the message may have been sent.
    id: str | None


@dataclass
class Session:
    """One connection of a client to a channel."""

    channel: str
    since: str | None
    #: The final value. ``None`` if the client left before it was known.
    recovered: bool | None = None
    received: list[Received] = field(default_factory=list)
    close_code: int | None = None


class Finding(NamedTuple):
    """Something that must not happen."""

    kind: str
    client: str
    detail: str
    text: str = ""  #: the message that is missing, for a gap


@dataclass
class Segment:
    """The messages of consecutive sessions without an admitted gap."""

    client: str
    channel: str
    received: list[Received]

    def first_times(self) -> list[Received]:
        """Return the messages without repetitions."""
        first: dict[str, Received] = {}
        for message in self.received:
            first.setdefault(message.text, message)
        return list(first.values())


@dataclass
class Verdict:
    """The result of :meth:`Ledger.check`."""

    published: int
    refused: int
    received: int
    #: How often the server told a client of a gap: ``recovered`` was false, or it sent 1013.
    told: int
    findings: list[Finding]

    def count(self, kind: str) -> int:
        return Counter(finding.kind for finding in self.findings)[kind]


class Ledger:
    """What was published and received in one trial.

    :param ids_rise: whether the ids of a channel rise in the order of publication. With a failover,
        two servers may assign ids at the same time.
    :param is_lossless: whether Redis keeps every message during the trial, so that no client has to
        be told of a gap.
    """

    def __init__(self, *, ids_rise: bool = True, is_lossless: bool = False) -> None:
        self.ids_rise = ids_rise
        self.is_lossless = is_lossless
        self.publications: dict[str, Publication] = {}
        self.sessions: dict[str, list[Session]] = {}
        #: The text of the final message of each channel that is checked.
        self.final: dict[str, str] = {}

    def add_publication(self, publication: Publication) -> None:
        if publication.text in self.publications:
            raise ValueError(f"{publication.text!r} was published before: no text is unique")
        self.publications[publication.text] = publication

    def add_session(self, client: str, session: Session) -> None:
        self.sessions.setdefault(client, []).append(session)

    # ---------------------------------------------------------------- checks

    def check(self) -> Verdict:
        """Compare what was published with what was received, in all channels of ``final``."""
        segments = [
            segment
            for client, sessions in self.sessions.items()
            for segment in segments_of(client, sessions)
            if segment.channel in self.final
        ]
        findings = [
            *self._find_strays(segments),
            *self._find_duplicates(segments),
            *self._find_disorder(segments),
            *self._find_gaps(segments),
            *self._find_deaf(),
        ]
        told = list(self._told())
        if self.is_lossless:
            findings += told
        publications = [
            publication
            for publication in self.publications.values()
            if publication.channel in self.final
        ]
        return Verdict(
            published=sum(publication.id is not None for publication in publications),
            refused=sum(publication.id is None for publication in publications),
            received=sum(len(segment.received) for segment in segments),
            told=len(told),
            findings=findings,
        )

    def _find_strays(self, segments: Iterable[Segment]) -> Iterator[Finding]:
        for segment in segments:
            for id_, text in segment.received:
                publication = self.publications.get(text)
                if publication is None:
                    yield Finding("stray", segment.client, f"nobody published {text!r} ({id_})")
                elif publication.channel != segment.channel:
                    yield Finding(
                        "stray",
                        segment.client,
                        f"{text!r} of {publication.channel} came in {segment.channel}",
                    )

    def _find_duplicates(self, segments: Iterable[Segment]) -> Iterator[Finding]:
        for segment in segments:
            ids: dict[str, list[str]] = {}
            for id_, text in segment.received:
                ids.setdefault(text, []).append(id_)
            for text, all_ids in ids.items():
                for _ in all_ids[1:]:
                    yield Finding(
                        "duplicate", segment.client, f"{text!r} came with the ids {all_ids}"
                    )

    def _find_disorder(self, segments: list[Segment]) -> Iterator[Finding]:
        """Find messages in a wrong order. Each message counts once in each of three checks."""
        for segment in segments:
            messages = segment.first_times()
            yield from self._find_publisher_disorder(segment, messages)
            if self.ids_rise:
                for (id_, text), (next_id, next_text) in pairwise(messages):
                    if order_of(next_id) < order_of(id_):
                        detail = f"{next_text!r} ({next_id}) came after {text!r} ({id_})"
                        yield Finding("disorder", segment.client, detail)
        reported = set()
        for one, other in combinations(segments, 2):
            if one.channel != other.channel:
                continue
            for text, next_text in descents(texts_of(one), texts_of(other)):
                if next_text not in reported:
                    reported.add(next_text)
                    detail = f"{one.client} received {text!r} before {next_text!r}"
                    yield Finding("disorder", other.client, f"not in this order: {detail}")

    def _find_publisher_disorder(
        self, segment: Segment, messages: Iterable[Received]
    ) -> Iterator[Finding]:
        """Compare with the order of each publisher.

        A message whose outcome is unknown may be sent while its publisher sends the next one.
        """
        latest: dict[str, Publication] = {}
        for _, text in messages:
            publication = self.publications.get(text)
            if publication is None or publication.id is None:
                continue
            before = latest.get(publication.publisher)
            if before is not None and before.number > publication.number:
                detail = f"{text!r} came after {before.text!r}"
                yield Finding("disorder", segment.client, detail)
            latest[publication.publisher] = publication

    def _find_gaps(self, segments: Iterable[Segment]) -> Iterator[Finding]:
        known = self._known_ids(segments)
        for segment in segments:
            orders = [order_of(id_) for id_, _ in segment.received]
            if not orders:
                continue
            first, last = min(orders), max(orders)
            received = {text for _, text in segment.received}
            for order, id_, text in known.get(segment.channel, ()):
                if first < order < last and text not in received:
                    yield Finding("gap", segment.client, f"{text!r} ({id_}) is missing", text)

    def _known_ids(
        self, segments: Iterable[Segment]
    ) -> dict[str, list[tuple[tuple[int, int], str, str]]]:
        """Return all messages of each channel: confirmed ones, and those that somebody received."""
        ids = {text: item.id for text, item in self.publications.items() if item.id is not None}
        for segment in segments:
            for id_, text in segment.received:
                ids.setdefault(text, id_)
        known: dict[str, list[tuple[tuple[int, int], str, str]]] = {}
        for text, id_ in ids.items():
            if text in self.publications:
                channel = self.publications[text].channel
                known.setdefault(channel, []).append((order_of(id_), id_, text))
        return {channel: sorted(messages) for channel, messages in known.items()}

    def _find_deaf(self) -> Iterator[Finding]:
        for client, sessions in self.sessions.items():
            final = self.final.get(sessions[0].channel)
            if final is None:
                continue
            session = session_with(sessions, final)
            if session is None:
                yield Finding("deaf", client, f"{final!r} did not come in {sessions[0].channel}")
            elif session.recovered is None:
                yield Finding("deaf", client, "`recovered` is None in spite of a message")

    def _told(self) -> Iterator[Finding]:
        for client, sessions in self.sessions.items():
            for session in sessions:
                if session.channel not in self.final:
                    continue
                if session.since and session.recovered is False:
                    yield Finding("needless", client, f"not recovered since {session.since}")
                if session.close_code == TRY_AGAIN_LATER:
                    yield Finding("needless", client, "closed with 1013")


def segments_of(client: str, sessions: Iterable[Session]) -> Iterator[Segment]:
    """Join the sessions of a client to segments."""
    segment: Segment | None = None
    for session in sessions:
        if session.recovered is None and not session.received:
            continue  # it ended before it began, and the next session has the same `since`
        is_continued = bool(session.since) and session.recovered is True
        if segment is None or not is_continued:
            if segment is not None:
                yield segment
            segment = Segment(client, session.channel, [])
        segment.received.extend(session.received)
    if segment is not None:
        yield segment


def session_with(sessions: Iterable[Session], text: str) -> Session | None:
    """Return the first session in which a message came."""
    for session in sessions:
        if any(message.text == text for message in session.received):
            return session
    return None


def texts_of(segment: Segment) -> list[str]:
    return [text for _, text in segment.first_times()]


def descents(reference: list[str], texts: list[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of neighbours, in the order of ``reference``, that ``texts`` has reversed."""
    positions = {text: position for position, text in enumerate(texts)}
    common = [text for text in reference if text in positions]
    for text, next_text in pairwise(common):
        if positions[next_text] < positions[text]:
            yield text, next_text


def order_of(id_: str) -> tuple[int, int]:
    """Return the two numbers of an id of a Redis stream."""
    milliseconds, _, sequence = id_.partition("-")
    return int(milliseconds), int(sequence)
