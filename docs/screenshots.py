"""``make screenshots``: takes the pictures of the examples, which are in ``images``, anew.

There are four of each example: desktop and phone, light and dark.
"""

import base64
import tempfile
from pathlib import Path

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.browser import OpenWindow, windows
from tests.support.proxies import free_port
from tests.support.servers import ROOT, serving
from tests.test_docs import follow, is_connected

IMAGES = ROOT / "docs" / "images"
DESKTOP = {"width": 1000, "height": 640, "scale": 1.5}
PROJECTOR = {"width": 1280, "height": 740, "scale": 1}
TABLET = {"width": 700, "height": 420, "scale": 1.5}
PHONE = {"width": 390, "height": 780, "scale": 1.25}


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, windows() as open_window:
        chat(Path(folder), open_window)
        tutorial(Path(folder), open_window)
        votes(Path(folder), open_window)


def chat(folder: Path, open_window: OpenWindow) -> None:
    example = ROOT / "examples" / "bottle_chat"
    with serving(["chat.py"], folder / "chat", cwd=example, PORT="0") as server:
        url = f"http://127.0.0.1:{server.address[1]}/#lobby"
        ada, grace = open_window(url, **DESKTOP), open_window(url, **PHONE)
        for window, name in (ada, "Ada"), (grace, "Grace"):
            fill(window, "name", name)
            wait(window, lambda w: text(w, "state") == "Connected")
        for window, line in [
            (ada, "Is the new server up?"),
            (grace, "Yes! I pulled the plug of the old one in the middle of a word"),
            (grace, "and nobody noticed: the pages came back by themselves."),
            (ada, "I was on the train, in a tunnel. Not a line is missing."),
            (grace, "Tea?"),
        ]:
            fill(window, "text", line)
            wait(window, lambda w, line=line: line in text(w, "messages"))
        wait(ada, lambda w: "Tea?" in text(w, "messages"))
        picture(ada, "chat")
        picture(grace, "chat-phone")


def tutorial(folder: Path, open_window: OpenWindow) -> None:
    program = folder / "program"
    program.mkdir()
    follow("tutorial-flask.md", program)
    command = ["-m", "geventws", "app:app", "--bind", "127.0.0.1:0"]
    with serving(command, folder / "tutorial", cwd=program) as server:
        url = f"http://127.0.0.1:{server.address[1]}/?name="
        ada, bob = open_window(f"{url}Ada", **TABLET), open_window(f"{url}Bob", **TABLET)
        for window, line in [
            (ada, "Hello Bob! I have just restarted the server."),
            (bob, "And I have not noticed."),
            (ada, "Not even in the train?"),
            (bob, "There was a tunnel. Your message came after it."),
        ]:
            wait(window, is_connected)
            fill(window, "text", line)
            wait(ada, lambda w, line=line: line in text(w, "lines"))
        picture(ada, "tutorial")


def votes(folder: Path, open_window: OpenWindow) -> None:
    example = ROOT / "examples" / "flask_votes"
    url = f"http://127.0.0.1:{(port := free_port())}/"
    environment = {
        "PORT": str(port),
        "VOTES": str(folder / "votes.sqlite3"),
        "PRESENTER_TOKEN": "token",
        "PUBLIC_URL": "http://192.168.1.57:8080",
    }
    with serving(["votes.py"], folder / "votes", cwd=example, ready="present", **environment):
        presenter = open_window(f"{url}presenter?token=token", **PROJECTOR)
        audience = [open_window(url, **PHONE) for _ in range(3)]
        for window, option in zip(audience, [1, 0, 1], strict=True):
            window.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
            wait(window, lambda w: w.find_elements(By.CLASS_NAME, "option"))[option].click()
        for window in presenter, audience[0]:
            wait(window, lambda w: "2 votes" in text(w, "options"))
        picture(presenter, "votes")
        picture(audience[0], "votes-phone")


def fill(window: Chrome, field: str, value: str) -> None:
    window.find_element(By.ID, field).send_keys(f"{value}\n")


def text(window: Chrome, id_: str) -> str:
    return window.find_element(By.ID, id_).text


def wait(window: Chrome, condition):
    return WebDriverWait(window, 20, 0.05).until(condition)


def picture(window: Chrome, name: str) -> None:
    options = {"format": "webp", "quality": 60}
    for scheme, file in ("light", f"{name}.webp"), ("dark", f"{name}-dark.webp"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        wait(window, lambda w: w.execute_script("return !document.getAnimations().length"))
        data = window.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
        (IMAGES / file).write_bytes(base64.b64decode(data))


if __name__ == "__main__":
    main()
