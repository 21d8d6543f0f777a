"""A branching story in a text file: its format, and every mistake in it told in one sentence.

title: The Lighthouse That Went for a Walk

[morning] The hole in the cliff
Paragraphs of text, an empty line between them.

* Follow the footprints -> dunes
* Ask the ferry cat -> cat

# The first step is the beginning; one without options is an ending; "#" starts a comment.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MAX_OPTIONS = 6  # As many as the pages have colours for, and more than an audience can weigh.

_STEP = re.compile(r"\[(?P<name>[^\]]*)\](?P<heading>.*)")
_NAME = re.compile(r"[\w-]+")


class StoryError(ValueError):
    """A mistake in a story file, in a sentence for the person who wrote the story."""


@dataclass(frozen=True)
class Option:
    text: str
    leads_to: str
    line: int


@dataclass(frozen=True)
class Step:
    name: str
    heading: str
    paragraphs: tuple[str, ...]
    options: tuple[Option, ...]
    line: int

    @property
    def is_ending(self) -> bool:
        return not self.options


@dataclass(frozen=True)
class Story:
    title: str
    start: str
    steps: Mapping[str, Step]


def load(path: Path) -> Story:
    """Read the story file at ``path``. Raise :class:`StoryError` if it contains a mistake."""
    try:
        # "-sig" because Windows editors put a byte order mark in front.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StoryError(f"{path}: the story cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise StoryError(f"{path}: the story must be saved as UTF-8 text.") from error
    return parse(text, path.name)


def parse(text: str, file: str = "story.txt") -> Story:
    """Parse a story. ``file`` is the name of the file in error messages."""
    reader = _Reader(file)
    for number, line in enumerate(text.splitlines(), start=1):
        reader.read(number, line.strip())
    story = reader.finish()
    _check_links(story, file)
    return story


@dataclass
class _Draft:
    """A step of which more lines may follow."""

    name: str
    heading: str
    line: int
    paragraphs: list[list[str]] = field(default_factory=list)
    options: list[Option] = field(default_factory=list)

    def finished(self) -> Step:
        paragraphs = tuple(" ".join(lines) for lines in self.paragraphs if lines)
        return Step(self.name, self.heading, paragraphs, tuple(self.options), self.line)


class _Reader:
    """Takes the lines one after another; each kind of line has its own method."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._title = ""
        self._steps: dict[str, _Draft] = {}
        self._step: _Draft | None = None

    def read(self, number: int, line: str) -> None:
        if line.startswith("#"):
            return
        if not line:
            self._end_paragraph()
        elif not self._title:
            self._read_title(number, line)
        elif heading := _STEP.fullmatch(line):
            self._begin_step(number, heading["name"].strip(), heading["heading"].strip())
        elif self._step is None:
            raise self._mistake(number, "a step must begin before any text: “[name] Heading”")
        elif line.startswith("*"):
            self._add_option(self._step, number, line[1:])
        else:
            self._add_text(self._step, number, line)

    def finish(self) -> Story:
        if not self._steps:
            raise StoryError(f"{self._file}: the story has no steps.")
        for draft in self._steps.values():
            if not any(draft.paragraphs):
                raise self._mistake(draft.line, f"step “{draft.name}” has no text")
        steps = {name: draft.finished() for name, draft in self._steps.items()}
        return Story(self._title, next(iter(steps)), steps)

    def _read_title(self, number: int, line: str) -> None:
        key, _, title = line.partition(":")
        if key.strip().lower() != "title" or not title.strip():
            raise self._mistake(number, "the story must begin with its title: “title: …”")
        self._title = title.strip()

    def _begin_step(self, number: int, name: str, heading: str) -> None:
        if not _NAME.fullmatch(name):
            raise self._mistake(
                number, f"“{name}” cannot name a step: use letters, digits, “-” and “_”"
            )
        if not heading:
            raise self._mistake(number, f"step “{name}” has no heading behind its name")
        if first := self._steps.get(name):
            raise self._mistake(
                number, f"step “{name}” exists already, it begins at line {first.line}"
            )
        self._step = self._steps[name] = _Draft(name, heading, number)

    def _add_option(self, step: _Draft, number: int, line: str) -> None:
        text, arrow, target = (part.strip() for part in line.rpartition("->"))
        if not arrow or not text or not target:
            raise self._mistake(
                number, f"an option of step “{step.name}” must read “* text -> step”"
            )
        if len(step.options) == MAX_OPTIONS:
            raise self._mistake(number, f"step “{step.name}” has more than {MAX_OPTIONS} options")
        step.options.append(Option(text, target, number))

    def _add_text(self, step: _Draft, number: int, line: str) -> None:
        if step.options:
            raise self._mistake(
                number, f"step “{step.name}” has text behind its options, it must come before them"
            )
        if not step.paragraphs:
            step.paragraphs.append([])
        step.paragraphs[-1].append(line)

    def _end_paragraph(self) -> None:
        if self._step is not None and self._step.paragraphs and self._step.paragraphs[-1]:
            self._step.paragraphs.append([])

    def _mistake(self, number: int, sentence: str) -> StoryError:
        return _mistake(self._file, number, sentence)


def _mistake(file: str, number: int, sentence: str) -> StoryError:
    return StoryError(f"{file}, line {number}: {sentence}.")


def _check_links(story: Story, file: str) -> None:
    for step in story.steps.values():
        for option in step.options:
            if option.leads_to not in story.steps:
                raise _mistake(file, option.line, _dangling(step, option, story))
    reachable = set(_reachable(story))
    for step in story.steps.values():
        if step.name not in reachable:
            raise _mistake(
                file, step.line, f"step “{step.name}” cannot be reached from “{story.start}”"
            )


def _dangling(step: Step, option: Option, story: Story) -> str:
    sentence = (
        f"option “{option.text}” of step “{step.name}” leads to “{option.leads_to}”,"
        " which does not exist"
    )
    similar = difflib.get_close_matches(option.leads_to, story.steps, n=1)
    return f"{sentence} (is it “{similar[0]}”?)" if similar else sentence


def _reachable(story: Story) -> Iterator[str]:
    seen = {story.start}
    to_visit = [story.start]
    while to_visit:
        name = to_visit.pop()
        yield name
        new = {option.leads_to for option in story.steps[name].options} - seen
        seen |= new
        to_visit += new
