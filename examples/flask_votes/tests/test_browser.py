"""Presenter and audience in real browsers, each with its own cookies."""

from collections.abc import Callable
from typing import TypeVar

from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from votes_support import PATIENCE, Show

RED, BLUE = 0, 1
PHONE = {"width": 390, "height": 844}
OpenWindow = Callable[..., Chrome]
T = TypeVar("T")


def test_what_one_votes_all_see_and_the_winner_opens_everywhere(
    show: Show, open_window: OpenWindow
) -> None:
    presenter = open_window(show.presenter_url, width=1280, height=800)
    ann, bob = open_window(show.url, **PHONE), open_window(show.url, **PHONE)
    everyone = (presenter, ann, bob)
    shows(presenter, "#people", "2")
    assert "token" not in presenter.current_url

    vote(ann, RED)
    for window in everyone:
        shows_counts(window, 1, 0)
    assert pressed(ann) == ["true", "false"]
    assert pressed(bob) == ["false", "false"]

    vote(bob, BLUE)
    for window in everyone:
        shows_counts(window, 1, 1)
    shows(presenter, "#hint", "A tie: a coin would decide")

    vote(ann, BLUE)
    for window in everyone:
        shows_counts(window, 0, 2)
    assert pressed(ann) == ["false", "true"]
    shows(presenter, "#hint", "Opens “Take the blue door”")

    presenter.find_element(By.ID, "next").click()
    for window in everyone:
        shows(window, "#heading", "The blue room")
        shows(window, "#chosen", "You chose: Take the blue door")
        shows(window, "#road li", "Take the blue door")
        assert not window.find_element(By.ID, "vote").is_displayed()

    presenter.find_element(By.ID, "restart").click()
    presenter.find_element(By.ID, "go-back").click()
    for window in everyone:
        shows(window, "#heading", "Two <b>doors</b>")
        shows_counts(window, 0, 0)
        assert complaints(window) == []


def test_a_restart_keeps_votes_and_step_and_the_pages_return_by_themselves(
    show: Show, open_window: OpenWindow
) -> None:
    presenter = open_window(show.presenter_url)
    ann, bob = open_window(show.url, **PHONE), open_window(show.url, **PHONE)
    everyone = (presenter, ann, bob)
    vote(ann, RED)
    shows_counts(presenter, 1, 0)
    presenter.find_element(By.ID, "next").click()
    shows(ann, ".option .text", "Back")
    vote(ann, 0)
    for window in everyone:
        shows_counts(window, 1)

    show.kill()
    for window in everyone:
        shows(window, "#connection", "Reconnecting")
    shows(ann, "#hint", "No connection. You can vote as soon as this page is live again.")
    shows(presenter, "#hint", "No connection. The vote goes on when this page is live again.")
    ann.find_elements(By.CSS_SELECTOR, ".option")[0].click()
    shows(ann, "#notice", "No connection at the moment. Your vote was not sent.")

    show.start()
    for window in everyone:
        shows(window, "#connection", "Live")
        shows(window, "#heading", "The red room")
        shows_counts(window, 1)
    assert pressed(ann) == ["true"]
    shows(presenter, "#people", "2")
    vote(bob, 0)
    for window in everyone:
        shows_counts(window, 2)


def test_a_presenter_whose_link_became_invalid_is_told_so(
    show: Show, open_window: OpenWindow
) -> None:
    presenter = open_window(show.presenter_url)
    shows_counts(presenter, 0, 0)
    show.kill()
    show.votes.unlink()  # it has the token of the link
    show.start()
    shows(presenter, "h1", "This page is for the presenter")


def test_everything_can_be_done_with_the_keyboard(show: Show, open_window: OpenWindow) -> None:
    presenter = open_window(show.presenter_url)
    ann = open_window(show.url, **PHONE)
    shows_counts(ann, 0, 0)
    press(ann, Keys.TAB, Keys.ENTER)
    shows_counts(presenter, 1, 0)
    shows(ann, "#announcer", "Your vote: Take <u>the red</u> door")
    press(ann, Keys.TAB, Keys.SPACE)
    shows_counts(presenter, 0, 1)

    press(presenter, Keys.ARROW_RIGHT)
    shows(ann, "#heading", "The blue room")
    shows(ann, "#announcer", "The blue room")
    # The button that had the focus is gone, so reading goes on at the new step.
    assert ann.switch_to.active_element.get_attribute("id") == "heading"

    shows(presenter, "#heading", "The blue room")
    presenter.find_element(By.ID, "restart").send_keys(Keys.ENTER)
    press(presenter, Keys.ESCAPE)
    assert presenter.find_element(By.ID, "heading").text == "The blue room"
    presenter.find_element(By.ID, "restart").send_keys(Keys.ENTER)
    press(presenter, Keys.TAB, Keys.ENTER)
    shows(ann, "#heading", "Two <b>doors</b>")


def vote(window: Chrome, option: int) -> None:
    wait(window, lambda: window.find_elements(By.CSS_SELECTOR, ".option"))[option].click()


def pressed(window: Chrome) -> list[str | None]:
    buttons = window.find_elements(By.CSS_SELECTOR, ".option")
    return [button.get_attribute("aria-pressed") for button in buttons]


def shows(window: Chrome, selector: str, text: str) -> None:
    wait(window, lambda: text_of(window, selector) == [text])


def shows_counts(window: Chrome, *counts: int) -> None:
    def shown() -> list[int]:
        # "2 votes" or "2 votes · 100 %"; what CSS puts before it is not part of the text.
        return [int(text.split()[0]) for text in text_of(window, "#options .count")]

    wait(window, lambda: shown() == list(counts))


def text_of(window: Chrome, selector: str) -> list[str]:
    # Read in one go: an element could be replaced between finding and reading it.
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
    texts: list[str] = window.execute_script(script, selector)
    return texts


def press(window: Chrome, *keys: str) -> None:
    for key in keys:
        ActionChains(window).send_keys(key).perform()


def complaints(window: Chrome) -> list[object]:
    """What the browser's console has to say: script errors, and what the CSP forbade."""
    return [entry for entry in window.get_log("browser") if entry["level"] == "SEVERE"]


def wait(window: Chrome, condition: Callable[[], T]) -> T:
    return WebDriverWait(window, 2 * PATIENCE, poll_frequency=0.05).until(lambda _: condition())
