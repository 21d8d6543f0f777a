from pathlib import Path

import pytest
import story
from story import StoryError, load, parse

SMALL = """
title: Small
# a note to self
[a] First
One
paragraph.

And another.

* Go on -> b
* Stay -> a
[b] Second
The end.
"""


def test_a_story_has_a_title_a_beginning_steps_and_options() -> None:
    small = parse(SMALL)
    assert (small.title, small.start, list(small.steps)) == ("Small", "a", ["a", "b"])
    first = small.steps["a"]
    assert first.heading == "First"
    assert first.paragraphs == ("One paragraph.", "And another.")
    assert [(option.text, option.leads_to) for option in first.options] == [
        ("Go on", "b"),
        ("Stay", "a"),
    ]


def test_a_step_without_options_is_an_ending() -> None:
    small = parse(SMALL)
    assert small.steps["b"].is_ending
    assert not small.steps["a"].is_ending


def test_the_last_arrow_of_an_option_is_the_one_that_leads_on() -> None:
    small = parse("title: T\n[a] A\nText\n* left -> right -> a")
    assert small.steps["a"].options[0].text == "left -> right"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "s.txt: the story has no steps."),
        ("title: T", "s.txt: the story has no steps."),
        ("[a] A\nText", "s.txt, line 1: the story must begin with its title: “title: …”."),
        ("title:", "s.txt, line 1: the story must begin with its title: “title: …”."),
        ("title: T\nText", "line 2: a step must begin before any text: “[name] Heading”."),
        ("title: T\n[] A\nText", "line 2: “” cannot name a step: use letters,"),
        ("title: T\n[a b] A\nText", "line 2: “a b” cannot name a step: use letters,"),
        ("title: T\n[a]\nText", "line 2: step “a” has no heading behind its name."),
        ("title: T\n[a] A", "line 2: step “a” has no text."),
        ("title: T\n[a] A\nText\n* B", "line 4: an option of step “a” must read “* text -> step”."),
        ("title: T\n[a] A\nText\n* -> a", "line 4: an option of step “a” must read"),
        ("title: T\n[a] A\nText\n* B ->", "line 4: an option of step “a” must read"),
        ("title: T\n[a] A\nText\n* B -> a\nMore", "line 5: step “a” has text behind its options,"),
        (
            "title: T\n[a] A\nText\n" + "* B -> a\n" * 7,
            "line 10: step “a” has more than 6 options.",
        ),
        (
            "title: T\n[a] A\nText\n* B -> a\n[a] Again\nText",
            "line 5: step “a” exists already, it begins at line 2.",
        ),
        (
            "title: T\n[cave] A\nText\n* Go -> elsewhere",
            "line 4: option “Go” of step “cave” leads to “elsewhere”, which does not exist.",
        ),
        (
            "title: T\n[cave] A\nText\n* Go -> Cave",
            "line 4: option “Go” of step “cave” leads to “Cave”, which does not exist"
            " (is it “cave”?).",
        ),
        (
            "title: T\n[a] A\nText\n[b] B\nText\n* Go -> b",
            "line 4: step “b” cannot be reached from “a”.",
        ),
    ],
)
def test_a_mistake_is_told_in_one_sentence_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(StoryError) as caught:
        parse(text, "s.txt")
    assert complaint in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_a_missing_file_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoryError, match="cannot be read \\(No such file or directory\\)"):
        load(tmp_path / "none.txt")


def test_a_file_that_is_not_utf_8_is_told_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes("title: Café".encode("latin-1"))
    with pytest.raises(StoryError, match="must be saved as UTF-8"):
        load(path)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes(SMALL.encode("utf-8-sig"))
    assert load(path).title == "Small"


def test_the_story_that_comes_along_is_sound_and_has_many_endings() -> None:
    lighthouse = load(Path(story.__file__).parent / "story.txt")
    endings = [step for step in lighthouse.steps.values() if step.is_ending]
    assert len(lighthouse.steps) >= 8
    assert len(endings) >= 3
