"""The chat as its users meet it: the program runs, WebSocket clients and browsers talk to it."""

import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

PROGRAM = Path(__file__).parents[1] / "chat.py"
PATIENCE = 20  # seconds; no test needs more than a fraction, unless something is broken
NAME_LIMIT, ROOM_NAME_LIMIT, TEXT_LIMIT = 24, 32, 1000
HISTORY_LIMIT, MEMBER_LIMIT = 50, 100


class Chat:
    """The running program."""

    def __init__(self, log: Path, port: int = 0) -> None:
        self.log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, PROGRAM],
                env={**os.environ, "PORT": str(port)},
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        assert ready, "the program does not say where it serves"
        line = self._process.stdout.readline().decode()
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])
        self.page = f"http://127.0.0.1:{self.port}/"

    def get(self, path: str) -> SimpleNamespace:
        """The response to a plain request."""
        http = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            http.request("GET", path)
            response = http.getresponse()
            body = response.read().decode()
            return SimpleNamespace(status=response.status, headers=response.headers, body=body)
        finally:
            http.close()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        return self._process.wait(PATIENCE)

    def stop(self) -> None:
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
            self.wait()
        self._process.stdout.close()


class Person:
    """A WebSocket client in a room."""

    def __init__(self, ws: Any) -> None:
        self.ws = ws
        self.name = ""
        self.name = self.hear("welcome")["name"]
        self.history = []
        while (event := self.hear("message", "members"))["type"] == "message":
            self.history.append(event)
        self.members = names_in(event)
        self.recovered = self.hear("recovered")["recovered"]

    def say(self, text: str) -> None:
        self.send(json.dumps({"text": text}))

    def send(self, message: str | bytes) -> None:
        self.ws.send(message)

    def hear(self, *kinds: str) -> dict[str, Any]:
        """The next event, which is of one of these kinds."""
        event = json.loads(self.ws.recv(timeout=PATIENCE))
        assert event["type"] in kinds
        return event

    def hear_text(self) -> str:
        return self.hear("message")["text"]


def names_in(event: dict[str, Any]) -> list[str]:
    """The names in an event about members."""
    return [member["name"] for _, member in event["members"]]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    """One server for all tests that do not change its state. Each test uses its own room."""
    chat = Chat(tmp_path_factory.mktemp("chat") / "log")
    yield chat
    chat.stop()


@pytest.fixture
def start_chat(tmp_path: Path) -> Iterator[Callable[..., Chat]]:
    """``start_chat(port=0)``: a program of the test's own."""
    with ExitStack() as started:

        def start(port: int = 0) -> Chat:
            chat = Chat(tmp_path / "log", port)
            started.callback(chat.stop)
            return chat

        yield start


@pytest.fixture
def enter() -> Iterator[Callable[..., Person]]:
    """``enter(chat, room, name)``: a member that stays in the room until the test ends."""
    with ExitStack() as connections:

        def enter_(chat: Chat, room: str, name: str, **options: Any) -> Person:
            return Person(connections.enter_context(join(chat, room, name, **options)))

        yield enter_


def join(chat: Chat, room: str, name: str, **options: Any) -> Any:
    query = urlencode({"name": name})
    url = f"ws://127.0.0.1:{chat.port}/ws/{quote(room, safe='')}?{query}"
    return connect(url, proxy=None, close_timeout=PATIENCE, **options)


@pytest.fixture
def room() -> str:
    """The name of a room that no other test uses."""
    return f"room-{next(room_numbers)}"


room_numbers = itertools.count(1)


# --- Talking ---


def test_everybody_in_the_room_hears_name_text_and_time(chat, room, enter):
    ada = enter(chat, room, "Ada")
    bob = enter(chat, room, "Bob")
    ada.hear("joined")

    ada.say("  Hello, Bob! ❤\nHow are you?  ")

    heard = bob.hear("message")
    assert heard == ada.hear("message")
    assert (heard["name"], heard["text"]) == ("Ada", "Hello, Bob! ❤\nHow are you?")
    time = datetime.fromisoformat(heard["time"])
    assert time.utcoffset() == timedelta(0)
    assert abs(datetime.now(timezone.utc) - time) < timedelta(seconds=PATIENCE)


def test_rooms_do_not_hear_each_other_and_case_makes_no_other_room(chat, room, enter):
    ada = enter(chat, room, "Ada")
    enter(chat, f"{room}-next-door", "Eve").say("Can you hear me?")
    bob = enter(chat, room.upper(), "Bob")

    bob.say("Here I am")

    assert names_in(ada.hear("joined")) == ["Bob"]
    assert ada.hear_text() == "Here I am"


def test_comings_and_goings_are_told_to_those_who_stay(chat, room, enter):
    ada = enter(chat, room, "Ada")
    with join(chat, room, "Bob") as ws:
        assert Person(ws).members == ["Ada", "Bob"]
        assert names_in(ada.hear("joined")) == ["Bob"]
    assert names_in(ada.hear("left")) == ["Bob"]
    assert enter(chat, room, "Cem").members == ["Ada", "Cem"]


def test_a_newcomer_gets_the_last_messages(chat, room, enter):
    ada = enter(chat, room, "Ada")
    for number in range(HISTORY_LIMIT + 5):
        ada.say(str(number))
        ada.hear("message")

    history = enter(chat, room, "Bob").history

    assert [message["text"] for message in history] == [str(n) for n in range(5, HISTORY_LIMIT + 5)]


def test_an_empty_room_keeps_its_history(chat, room, enter):
    leave_a_message(chat, room)
    ada = enter(chat, room, "Ada")
    assert [message["text"] for message in ada.history] == ["I was here"]
    assert ada.members == ["Ada"]


def leave_a_message(chat: Chat, room: str) -> None:
    with join(chat, room, "Ada") as ws:
        ada = Person(ws)
        ada.say("I was here")
        ada.hear("message")


def test_a_taken_name_gets_a_number(chat, room, enter):
    names = [enter(chat, room, name).name for name in ("Ada", "ada", " Ada  2", "ADA")]
    assert names == ["Ada", "ada 2", "Ada 2 2", "ADA 3"]


# --- Refusals ---


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('{"text": ""}', "There is nothing in that message."),
        ('{"text": " \\n "}', "There is nothing in that message."),
        (json.dumps({"text": "x" * (TEXT_LIMIT + 1)}), "1001 characters. The limit is 1000."),
        ("[]", "no text"),
        ("null", "no text"),
        ('{"txt": "Hello"}', "no text"),
        ('{"text": 1}', "no text"),
    ],
)
def test_a_bad_message_is_refused_to_its_sender_alone(chat, room, enter, message, reason):
    ada = enter(chat, room, "Ada")
    bob = enter(chat, room, "Bob")
    ada.hear("joined")

    ada.send(message)
    assert reason in ada.hear("refused")["reason"]

    ada.say("Sorry")
    assert ada.hear_text() == bob.hear_text() == "Sorry"


def test_the_longest_text_and_half_a_character_pass(chat, room, enter):
    ada = enter(chat, room, "Ada")
    for text in ("🐘" * TEXT_LIMIT, "\ud83d"):
        ada.say(text)
        assert ada.hear_text() == text


@pytest.mark.parametrize(
    ("room", "name", "reason"),
    [
        ("lobby", "", "Please enter a name."),
        ("lobby", " \t", "Please enter a name."),
        ("lobby", "x" * (NAME_LIMIT + 1), "That name has 25 characters. The limit is 24."),
        ("lobby", "Ada\u202egnop", "A name consists of visible characters."),
        ("", "Ada", "Please enter a room."),
        (" ", "Ada", "Please enter a room."),
        ("x" * (ROOM_NAME_LIMIT + 1), "Ada", "That room has 33 characters. The limit is 32."),
        ("a/b", "Ada", "A room consists of letters, digits, - and _."),
        ("<b>", "Ada", "A room consists of letters, digits, - and _."),
    ],
)
def test_a_bad_name_or_room_is_answered_with_400_instead_of_an_upgrade(chat, room, name, reason):
    with pytest.raises(InvalidStatus) as refused, join(chat, room, name):
        pass
    assert refused.value.response.status_code == 400
    assert refused.value.response.body.decode() == reason + "\n"

    answer = chat.get(f"/check/{quote(room, safe='')}?{urlencode({'name': name})}")
    assert (answer.status, answer.body) == (400, reason + "\n")


def test_a_request_without_a_name_is_answered_with_400(chat):
    url = f"ws://127.0.0.1:{chat.port}/ws/lobby"
    with pytest.raises(InvalidStatus, match="400"), connect(url, proxy=None):
        pass


def test_names_and_rooms_of_any_script_pass_the_check_and_get_in(chat, enter):
    assert chat.get(f"/check/{quote('teestübchen')}?name={quote('Zoë 🐘')}").status == 204
    assert enter(chat, "teestübchen", "Zoë 🐘").name == "Zoë 🐘"


def test_a_full_room_is_answered_with_503(chat, room, enter):
    with ExitStack() as crowd:
        for number in range(MEMBER_LIMIT):
            crowd.enter_context(join(chat, room, f"Ada {number}", max_queue=None)).recv(PATIENCE)
        with pytest.raises(InvalidStatus) as refused, join(chat, room, "Bob"):
            pass
        assert refused.value.response.status_code == 503
        assert refused.value.response.body == b"This room is full. Please try again later.\n"
        assert chat.get(f"/check/{room}?name=Bob").status == 503


def test_a_plain_request_for_a_websocket_is_answered_with_426(chat):
    answer = chat.get("/ws/lobby?name=Ada")
    assert answer.status == 426
    assert answer.headers["Upgrade"] == "websocket"
    assert answer.body == "This address is for WebSockets.\n"


def test_pages_of_other_sites_may_not_connect(chat, room):
    with (
        pytest.raises(InvalidStatus, match="403"),
        join(chat, room, "Ada", origin="https://elsewhere.example"),
    ):
        pass


# --- Many messages, slow readers, the end ---


def test_a_slow_reader_delays_nobody_and_is_dropped_with_1013(chat, room, enter):
    ada = enter(chat, room, "Ada")
    # Reads no further than that. Compressed, the messages would be too short to fill anything.
    slow = enter(chat, room, "Slow", max_queue=1, compression=None)
    ada.hear("joined")

    for _ in range(10_000):  # The system's own buffers take some megabytes.
        ada.say("🐌" * TEXT_LIMIT)
        if ada.hear("message", "left")["type"] == "left":
            break

    assert close_code(slow) == 1013


def test_many_messages_at_once_do_not_make_readers_look_slow(chat, room, enter):
    ada = enter(chat, room, "Ada")
    bob = enter(chat, room, "Bob")
    ada.hear("joined")
    texts = [str(number) for number in range(1000)]

    send_at_once(ada, [json.dumps({"text": text}).encode() for text in texts])

    assert [bob.hear_text() for _ in texts] == texts
    assert [ada.hear_text() for _ in texts] == texts


def test_many_bad_messages_at_once_are_all_refused(chat, room, enter):
    ada = enter(chat, room, "Ada")

    send_at_once(ada, [b"[]"] * 1000)

    for _ in range(1000):
        ada.hear("refused")
    ada.say("Sorry")
    assert ada.hear_text() == "Sorry"


def send_at_once(person: Person, messages: list[bytes]) -> None:
    """In one system call, so that the server reads them all before it answers the first."""
    frames = [Frame(Opcode.TEXT, message).serialize(mask=True) for message in messages]
    person.ws.socket.sendall(b"".join(frames))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_program_closes_everybody_with_1001(start_chat, enter, number):
    chat = start_chat()
    ada = enter(chat, "lobby", "Ada")

    chat.signal(number)

    assert close_code(ada) == 1001
    assert chat.wait() == 0
    assert "Traceback" not in chat.log.read_text()


def close_code(person: Person) -> int:
    """The code of the server's Close frame, which follows the last messages."""
    with pytest.raises(ConnectionClosed):
        read_on(person)
    return person.ws.close_code


def read_on(person: Person) -> None:
    while True:
        person.ws.recv(timeout=PATIENCE)


def test_a_port_that_is_taken_is_told_in_one_line(chat):
    program = subprocess.run(
        [sys.executable, PROGRAM],
        env={**os.environ, "PORT": str(chat.port)},
        timeout=PATIENCE,
        capture_output=True,
        text=True,
        check=False,
    )
    told = f"Cannot listen on port {chat.port} (Address already in use)."
    told += " Set PORT to use another one.\n"
    assert (program.returncode, program.stderr) == (1, told)


def test_every_request_is_logged_in_one_line(start_chat, enter):
    chat = start_chat()
    chat.get("/")
    with join(chat, "tea", "Ada") as ws:
        Person(ws)
    chat.stop()
    page, socket = chat.log.read_text().splitlines()
    assert '"GET / HTTP/1.1" 200 ' in page
    assert '"GET /ws/tea?name=Ada HTTP/1.1" 101 ' in socket


# --- The page ---


def test_the_page_may_load_and_run_our_own_files_only(chat):
    page = chat.get("/")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=UTF-8"
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    for file in PROGRAM.parent.joinpath("static").iterdir():
        assert chat.get(f"/static/{file.name}").status == 200
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", file.read_text()
        )
    assert chat.get("/static/..%2Fchat.py").status in {403, 404}


def test_two_windows_chat_with_each_other(chat, room, open_window):
    ada = open_page(open_window, chat, room, "Ada")
    bob = open_page(open_window, chat, room, "Bob")
    wait(ada, lambda: people(ada) == ["Ada (you)", "Bob"])
    assert people(bob) == ["Ada", "Bob (you)"]
    assert "Bob joined." in element(ada, "messages").text

    write(ada, "Hello, Bob!")
    wait(bob, lambda: texts(bob) == ["Hello, Bob!"])
    write(bob, "Hello, Ada!")
    wait(ada, lambda: texts(ada) == ["Hello, Bob!", "Hello, Ada!"])

    element(bob, "leave").click()
    wait(ada, lambda: people(ada) == ["Ada (you)"])
    assert bob.switch_to.active_element == element(bob, "name")
    for window in ada, bob:
        assert window.get_log("browser") == []


def test_html_in_names_and_messages_is_shown_as_text(chat, room, open_window):
    attack = """<img src=x onerror="document.title='owned'"><script>alert(1)</script>"""
    eve = open_page(open_window, chat, room, "<b>Eve</b>")
    write(eve, attack)
    wait(eve, lambda: texts(eve) == [attack])

    bob = open_page(open_window, chat, room, "Bob")

    assert texts(bob) == [attack]
    assert people(bob) == ["<b>Eve</b>", "Bob (you)"]
    assert bob.find_elements(By.CSS_SELECTOR, "#messages img, #messages script, #chat b b") == []
    assert bob.title == f"{room} · Bottle Chat"


def test_the_page_comes_back_after_a_restart_of_the_server(start_chat, open_window):
    chat = start_chat()
    ada = open_page(open_window, chat, "lobby", "Ada")
    write(ada, "Before")
    wait(ada, lambda: texts(ada) == ["Before"])

    chat.stop()
    wait(ada, lambda: state(ada) == "Connection lost. Trying again…")
    write(ada, "While it is gone")
    wait(ada, lambda: "Not connected" in element(ada, "refusal").text)
    start_chat(chat.port)
    wait(ada, lambda: state(ada) == "Connected")
    assert element(ada, "refusal").text == ""
    wait(ada, lambda: people(ada) == ["Ada (you)"])
    assert "may be missing" not in element(ada, "messages").text

    element(ada, "text").send_keys(Keys.ENTER)  # what was written is still there
    wait(ada, lambda: texts(ada) == ["Before", "While it is gone"])


def test_a_page_that_was_offline_gets_what_it_missed_and_nothing_twice(
    chat, room, open_window, enter
):
    ada = open_page(open_window, chat, room, "Ada")
    write(ada, "Once")
    wait(ada, lambda: texts(ada) == ["Once"])

    set_offline(ada, True)
    wait(ada, lambda: state(ada) == "You are offline.")
    bob = enter(chat, room, "Bob")
    bob.say("While you were away")
    bob.hear("message")
    set_offline(ada, False)

    wait(ada, lambda: state(ada) == "Connected")
    assert texts(ada) == ["Once", "While you were away"]
    assert people(ada) == ["Bob", "Ada (you)"]


def test_a_page_is_told_once_that_messages_may_be_missing(start_chat, room, open_window, enter):
    chat = start_chat()
    ada = open_page(open_window, chat, room, "Ada")
    write(ada, "Before")
    wait(ada, lambda: texts(ada) == ["Before"])
    set_offline(ada, True)
    wait(ada, lambda: state(ada) == "You are offline.")
    bob = enter(chat, room, "Bob")
    bob.say("Missed")
    bob.hear("message")
    chat.signal(signal.SIGKILL)
    chat.wait()

    start_chat(chat.port)
    for _ in range(2):
        set_offline(ada, False)
        wait(ada, lambda: state(ada) == "Connected" and people(ada) == ["Ada (you)"])
        wait(ada, lambda: element(ada, "messages").text.count("may be missing") == 1)
        set_offline(ada, True)
        wait(ada, lambda: state(ada) == "You are offline.")


def set_offline(window: Chrome, offline: bool) -> None:
    window.execute_cdp_cmd("Network.enable", {})
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    window.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": offline, **conditions})


def test_a_refused_name_or_room_is_shown_before_connecting(chat, open_window):
    window = open_window(f"{chat.page}#a%20b")
    assert element(window, "room").get_attribute("value") == "a b"
    for name, reason, field in [
        ("", "Please enter a name.", "name"),
        ("x" * (NAME_LIMIT + 1), "That name has 25 characters. The limit is 24.", "name"),
        ("Ada", "A room consists of letters, digits, - and _.", "room"),
    ]:
        element(window, "name").clear()
        element(window, "name").send_keys(name, Keys.ENTER)
        wait(window, lambda reason=reason: element(window, "join-error").text == reason)
        assert window.switch_to.active_element == element(window, field)
        assert element(window, field).get_attribute("aria-invalid") == "true"
    assert not element(window, "chat").is_displayed()


def test_a_refused_message_comes_back_to_its_author(chat, room, open_window):
    ada = open_page(open_window, chat, room, "Ada")

    write(ada, "   ")
    wait(ada, lambda: element(ada, "refusal").text == "There is nothing in that message.")
    ada.execute_script("arguments[0].value = 'x'.repeat(1000)", element(ada, "text"))
    element(ada, "text").send_keys("xx")
    assert element(ada, "remaining").text == "2 too many"
    element(ada, "send").click()
    wait(ada, lambda: "The limit is 1000." in element(ada, "refusal").text)
    assert len(element(ada, "text").get_attribute("value")) == 1002

    element(ada, "text").send_keys(Keys.BACKSPACE * 2, Keys.ENTER)
    wait(ada, lambda: texts(ada) == ["x" * 1000])
    assert element(ada, "refusal").text == element(ada, "text").get_attribute("value") == ""


def test_a_taken_name_is_explained(chat, room, open_window, enter):
    enter(chat, room, "Ada")
    window = open_page(open_window, chat, room, "Ada")
    assert "Somebody here is called Ada already. You are Ada 2." in element(window, "messages").text
    assert people(window) == ["Ada", "Ada 2 (you)"]


def test_who_reads_further_up_is_not_scrolled_away(chat, room, open_window, enter):
    bob = enter(chat, room, "Bob")
    for number in range(HISTORY_LIMIT):
        bob.say(f"Line {number}")
        bob.hear("message")
    ada = open_page(open_window, chat, room, "Ada")
    bob.hear("joined")
    wait(ada, lambda: scrolled_up(ada) < 1)

    ada.execute_script("document.getElementById('log').scrollTop = 0")
    bob.say("News")
    wait(ada, lambda: element(ada, "newer").is_displayed())
    assert scrolled_up(ada) > 100

    element(ada, "newer").click()
    wait(ada, lambda: scrolled_up(ada) < 1 and not element(ada, "newer").is_displayed())


def test_the_keyboard_is_enough_and_every_control_has_a_name(chat, room, open_window):
    window = open_window(f"{chat.page}#{room}")
    wait(window, lambda: focused(window) == "Your name")
    window.switch_to.active_element.send_keys("Ada", Keys.TAB)
    assert focused(window) == "Room"
    window.switch_to.active_element.send_keys(Keys.TAB)
    assert focused(window) == "Enter the room"
    window.switch_to.active_element.send_keys(Keys.ENTER)
    wait(window, lambda: focused(window) == "Message")
    window.switch_to.active_element.send_keys("Two", Keys.SHIFT, Keys.ENTER, Keys.SHIFT, "lines")
    window.switch_to.active_element.send_keys(Keys.ENTER)
    wait(window, lambda: texts(window) == ["Two\nlines"])
    back, forth = Keys.SHIFT + Keys.TAB, Keys.TAB
    for key, name in [
        (back, "Messages"),
        (back, "Here now 1"),
        (back, "Leave"),
        (forth, "Here now 1"),
        (forth, "Messages"),
        (forth, "Message"),
        (forth, "Send"),
    ]:
        window.switch_to.active_element.send_keys(key)
        assert focused(window) == name
        width = window.switch_to.active_element.value_of_css_property("outline-width")
        assert width == "3px", "the focus is hard to see"
    assert element(window, "compose").aria_role == "form"
    assert element(window, "compose").accessible_name == "New message"
    assert element(window, "log").aria_role == "log"
    assert element(window, "state").aria_role == "status"


def test_the_page_fits_a_phone(chat, room, open_window, enter):
    for name in "Bob", "Cem", "Dr. Diana", "Eve":
        enter(chat, room, name)
    phone = open_window(f"{chat.page}#{room}", width=360, height=640)
    assert_fits(phone)
    go_in(phone, "Ada" * (NAME_LIMIT // 3))
    write(phone, "Donaudampfschifffahrtsgesellschaft" * 5)
    wait(phone, lambda: len(texts(phone)) == 1)
    assert_fits(phone)
    here = element(phone, "here").rect
    for person in phone.find_elements(By.CLASS_NAME, "person"):
        assert person.rect["x"] + person.rect["width"] <= 360
        assert person.rect["y"] + person.rect["height"] <= here["y"] + here["height"]


def assert_fits(phone: Chrome) -> None:
    root = phone.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert root[0] <= root[1] == 360
    for control in phone.find_elements(By.CSS_SELECTOR, "input, textarea, button"):
        if control.is_displayed():
            box = control.rect
            assert box["height"] >= 44, "hard to hit with a finger"
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
            assert box["y"] + box["height"] <= 640
            if control.tag_name != "button":
                # iOS zooms in on smaller ones.
                assert float(control.value_of_css_property("font-size").removesuffix("px")) >= 16


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_follow_the_scheme_and_stay_legible(chat, room, open_window, enter, scheme):
    bob = enter(chat, room, "Bob")
    bob.say("Hello")
    bob.hear("message")
    window = open_page(open_window, chat, room, "Ada")
    feature = {"name": "prefers-color-scheme", "value": scheme}
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    write(window, "Hello")
    wait(window, lambda: len(texts(window)) == 2)
    surface = brightness(element(window, "chat"), "background-color")
    assert surface > 0.9 if scheme == "light" else surface < 0.05
    for selector in (
        "#title",
        "#state",
        "#here h2",
        "#count",
        ".who",
        "#leave",
        "#send",
        ".message:not(.mine) .text",
        ".mine .text",
        ".byline time",
        ".notice",
    ):
        seen = window.find_element(By.CSS_SELECTOR, selector)
        lighter, darker = sorted(
            (brightness(seen, "color"), brightness(seen, "background-color")), reverse=True
        )
        # WCAG 2.2, success criterion 1.4.3
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, selector


def brightness(element: WebElement, property_: str) -> float:
    """The relative luminance that WCAG defines; of the background: of the nearest that has one."""
    colour = element.value_of_css_property(property_)
    red, green, blue, *alpha = (float(part) for part in re.findall(r"[\d.]+", colour))
    if alpha == [0]:
        return brightness(element.find_element(By.XPATH, ".."), property_)
    return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)


def linear(part: float) -> float:
    part /= 255
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


# --- How the tests use a window ---


def open_page(open_window: Callable[..., Chrome], chat: Chat, room: str, name: str) -> Chrome:
    window = open_window(f"{chat.page}#{room}")
    go_in(window, name)
    return window


def go_in(window: Chrome, name: str) -> None:
    element(window, "name").send_keys(name, Keys.ENTER)
    wait(window, lambda: state(window) == "Connected")


def write(window: Chrome, text: str) -> None:
    element(window, "text").send_keys(text, Keys.ENTER)


def wait(window: Chrome, condition: Callable[[], bool]) -> None:
    WebDriverWait(window, PATIENCE, poll_frequency=0.05).until(lambda _: condition())


def element(window: Chrome, id_: str) -> WebElement:
    return window.find_element(By.ID, id_)


def state(window: Chrome) -> str:
    return element(window, "state").text


def texts(window: Chrome) -> list[str]:
    return [found.text for found in window.find_elements(By.CSS_SELECTOR, ".message .text")]


def people(window: Chrome) -> list[str]:
    return [found.text for found in window.find_elements(By.CSS_SELECTOR, ".person .who")]


def focused(window: Chrome) -> str:
    """What a screen reader calls the element with the focus."""
    return window.switch_to.active_element.accessible_name


def scrolled_up(window: Chrome) -> float:
    """How many pixels are below the visible part of the messages."""
    return window.execute_script(
        "const log = document.getElementById('log');"
        "return log.scrollHeight - log.scrollTop - log.clientHeight;"
    )
