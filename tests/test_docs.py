"""The documentation: every Python snippet is valid, and the tutorials work."""

import configparser
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

import geventws
from tests.support.proxies import free_port
from tests.support.servers import serving

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for folder in (".", "benchmarks", "compliance", "docs", "examples/*")
    for page in ROOT.glob(f"{folder}/*.md")
)
#: The public modules that have an ``__all__``.
PUBLIC = [
    "geventws",
    *(
        f"geventws.{name}"
        for name in (
            *("bottle", "broadcast", "compat", "django"),
            *("engineio", "flask", "integration", "js"),
        )
    ),
]
TUTORIALS = ["tutorial-flask.md", "tutorial-bottle.md"]


def snippets_of(page: Path, language: str = "python") -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", page.read_text())


def follow(tutorial: str, folder: Path) -> None:
    """Write the files that exist at the end of a tutorial."""
    page = ROOT / "docs" / tutorial
    (folder / "static").mkdir()
    for snippet in snippets_of(page) + snippets_of(page, "html"):
        if name := re.search(r"\A(?:<!doctype html>\n<!--|#) ([\w/]+\.\w+)\b", snippet):
            (folder / name[1]).write_text(snippet)
    written = {str(path.relative_to(folder)) for path in folder.rglob("*.*")}
    assert written == {"app.py", "follow.py", "test_app.py", "static/chat.html"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_snippet_is_python(page):
    for snippet in snippets_of(page):
        compile(snippet, page.name, "exec")


@pytest.mark.parametrize("tutorial", TUTORIALS)
def test_the_tests_of_a_tutorial_pass_for_its_last_program(tutorial, tmp_path):
    follow(tutorial, tmp_path)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 passed" in run.stdout, run.stdout + run.stderr


def is_connected(page) -> bool:
    return page.execute_script("return ws.readyState === WebSocket.OPEN")


@pytest.mark.parametrize("tutorial", TUTORIALS)
def test_the_page_of_a_tutorial_comes_back_after_a_restart_of_the_server(
    tutorial, tmp_path, open_window
):
    follow(tutorial, tmp_path)
    port = free_port()
    command = ["-m", "geventws", "app:app", "--bind", f"127.0.0.1:{port}"]
    ada = None
    for greeting in "hello", "hello again":
        with serving(command, tmp_path / "log", cwd=tmp_path):
            ada = ada or open_window(f"http://127.0.0.1:{port}/?name=Ada")
            WebDriverWait(ada, 20, 0.05).until(is_connected)
            with geventws.connect(f"ws://127.0.0.1:{port}/chat?name=Bob") as bob:
                ada.find_element(By.ID, "text").send_keys(f"{greeting}\n")
                assert f"Ada: {greeting}" in iter(lambda bob=bob: bob.receive(10), None)


@pytest.mark.parametrize("tutorial", TUTORIALS)
def test_every_program_of_a_tutorial_can_be_imported(tutorial, tmp_path):
    for i, snippet in enumerate(snippets_of(ROOT / "docs" / tutorial)):
        if snippet.startswith("# app.py\n"):
            (tmp_path / f"app{i}.py").write_text(snippet)
            subprocess.run(
                [sys.executable, "-c", f"import app{i}; assert callable(app{i}.app)"],
                cwd=tmp_path,
                check=True,
                timeout=60,
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_into_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text()):
        if not re.match(r"\w+:", target):
            assert (page.parent / target).exists(), target


def test_every_promise_of_security_names_a_test_that_exists():
    named = re.findall(r"`([\w/]*test_\w+\.py)::(test_\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 40
    for file, name in named:
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(), (file, name)


@pytest.mark.parametrize("module", PUBLIC)
def test_the_reference_has_every_public_name(module):
    reference = "\n".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    documented = {name.rpartition(".")[2] for name in re.findall(r"auto\w+:: ([\w.]+)", reference)}
    for whole in re.findall(r"automodule:: ([\w.]+)", reference):
        documented |= set(vars(importlib.import_module(whole)))
    names = set(importlib.import_module(module).__all__)
    assert names - {"__core__", "__version__"} <= documented


def test_every_make_target_and_every_extra_that_is_named_exists():
    text = "\n".join(page.read_text() for page in PAGES)
    targets = set(re.findall(r"(?m)(?:^ *|`)make ([a-z]+)\b(?! [a-z])", text))
    assert targets <= set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    extras = {
        extra for some in re.findall(r"geventws\[([a-z,]+)\]", text) for extra in some.split(",")
    }
    assert extras
    assert extras <= set(setup["options.extras_require"])
