"""Real Chromium windows, driven through its own ChromeDriver."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator

import pytest
from selenium import webdriver

from tests.support.tools import need

APT = "apt-get install chromium chromium-driver"
QUIET = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]
OpenWindow = Callable[..., webdriver.Chrome]


@contextlib.contextmanager
def windows() -> Iterator[OpenWindow]:
    """``open_window(url, width=1000, height=800)``: a new browser, closed after the test.

    Each window is a separate process with an empty profile, so it shares no cookies with others.
    """
    chromium = need("chromium", APT)
    driver = need("chromedriver", APT)
    with contextlib.ExitStack() as stack:

        def open_(
            url: str, width: int = 1000, height: int = 800, scale: float | None = None
        ) -> webdriver.Chrome:
            profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            stack.enter_context(profile)
            options = webdriver.ChromeOptions()
            options.binary_location = chromium
            options.accept_insecure_certs = True  # the certificates of tests are self-signed
            own = f"--user-data-dir={profile.name}", f"--window-size={width},{height}"
            for argument in (*QUIET, *own):
                options.add_argument(argument)
            window = webdriver.Chrome(options, webdriver.ChromeService(driver))
            stack.callback(window.quit)
            window.set_page_load_timeout(20)
            window.set_script_timeout(20)
            if scale or width < 500:
                # A desktop window cannot be as narrow as a phone: emulate its screen.
                metrics = {"width": width, "height": height, "deviceScaleFactor": scale or 1}
                metrics["mobile"] = width < 500
                window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            window.get(url)
            return window

        yield open_


@pytest.fixture
def open_window() -> Iterator[OpenWindow]:
    with windows() as open_:
        yield open_
