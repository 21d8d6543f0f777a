"""``make site``: builds the documentation of every release in ``build/site``, and a list of them.

A release is a tag such as ``v1.2.3``. Its pages are in the folder ``1.2.3``, and those of an older
release link to the latest one.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"
TREES = ROOT / "build" / "releases"
LIST = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>geventws: documentation</title>
<main style="font: 1.125rem/1.6 sans-serif; max-width: 36rem; margin: auto; padding: 1rem">
<h1>geventws: documentation</h1>
<ul>
{}
</ul>
</main>
</html>
"""


def main() -> None:
    tags = git("tag", "--sort=-v:refname", "--list", "v*").decode().split()
    versions = [tag.removeprefix("v") for tag in tags]
    if not versions:
        sys.exit("There is no release: no tag begins with v.")
    for version in versions:
        build(version, "" if version == versions[0] else versions[0])
    links = [f'<li><a href="{version}/">{version}</a></li>' for version in versions]
    (SITE / "index.html").write_text(LIST.format("\n".join(links)))


def build(version: str, latest: str) -> None:
    tree = TREES / version
    tree.mkdir(parents=True, exist_ok=True)
    archive = git("archive", f"v{version}")
    subprocess.run(["tar", "-x", "-C", tree], input=archive, check=True)
    arguments = ["-D", f"html_title=geventws {version}"]
    if latest:
        note = f'This is version {version}. The latest is <a href="../{latest}/">{latest}</a>.'
        arguments += ["-D", f"html_theme_options.announcement={note}"]
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", *arguments, tree / "docs", SITE / version],
        cwd=tree,  # Python looks here first, so it imports the release
        check=True,
    )


def git(*command: str) -> bytes:
    return subprocess.run(["git", *command], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    main()
