"""What the documentation shows: every snippet is Python, and the programs of the tutorials run."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPET = re.compile(r"(?ms)^```python\n(.*?)^```")


def snippets_of(page: Path) -> list[str]:
    return SNIPPET.findall(page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_snippet_is_python(page):
    for snippet in snippets_of(page):
        compile(snippet, page.name, "exec")


@pytest.mark.parametrize("page", ["tutorial-flask.md", "tutorial-bottle.md"])
def test_the_tests_of_a_tutorial_pass_for_its_last_program(page, tmp_path):
    files = {}
    for snippet in snippets_of(ROOT / "docs" / page):
        name = re.match(r"# (\w+\.py)\n", snippet)
        if name:
            files[name[1]] = snippet
    assert set(files) == {"app.py", "test_app.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )
    assert "1 passed" in run.stdout, run.stdout + run.stderr


@pytest.mark.parametrize("page", ["tutorial-flask.md", "tutorial-bottle.md"])
def test_every_program_of_a_tutorial_can_be_imported(page, tmp_path):
    for i, snippet in enumerate(snippets_of(ROOT / "docs" / page)):
        if snippet.startswith("# app.py\n"):
            (tmp_path / f"app{i}.py").write_text(snippet)
            subprocess.run(
                [sys.executable, "-c", f"import app{i}; assert callable(app{i}.app)"],
                cwd=tmp_path, check=True, timeout=60,
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_into_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text()):
        if not re.match(r"\w+:", target):
            assert (page.parent / target).exists(), target
