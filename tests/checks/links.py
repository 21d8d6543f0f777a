"""``make docs``: every link of the documents into the repository leads to a file and a heading.

Sphinx does not know the anchors of files outside of ``docs/``, and GitHub says nothing. Exits with
1 if a link is dead.
"""

import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = (".", "benchmarks", "compliance", "deploy", "docs", "examples/*")
_CODE = re.compile(r"(?ms)^ *```.*?^ *```|`[^`\n]*`")
_LINK = re.compile(r"\]\(\s*<?([^)#\s>]*)(?:#([^)\s>]+))?>?\s*\)")
_HEADING = re.compile(r"(?m)^#+ +(.+?) *$")


@cache
def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub and MyST give to the headings of a page."""
    text = re.sub(r"(?ms)^ *```.*?^ *```", "", page.read_text())
    anchors = set(re.findall(r"(?m)^\(([\w-]+)\)=$", text))
    anchors |= set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
    counts: dict[str, int] = {}
    for heading in _HEADING.findall(text):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).strip().replace(" ", "-")
        count = counts[slug] = counts.get(slug, -1) + 1
        anchors.add(f"{slug}-{count}" if count else slug)
    return anchors


def dead_links(page: Path) -> list[str]:
    """Describe the links of a page that lead nowhere."""
    dead = []
    text = _CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), page.read_text())
    for link in _LINK.finditer(text):
        target, anchor = link[1], link[2]
        if re.match(r"\w+:", target):
            continue
        found = (page.parent / target).resolve() if target else page
        line = text.count("\n", 0, link.start()) + 1
        place = f"{page.relative_to(ROOT)}:{line}"
        if not found.exists():
            dead.append(f"{place}: {target} does not exist")
        elif anchor and found.suffix == ".md" and anchor not in anchors_of(found):
            dead.append(f"{place}: {found.relative_to(ROOT)} has no heading #{anchor}")
    return dead


def main() -> int:
    pages = sorted(page for folder in FOLDERS for page in ROOT.glob(f"{folder}/*.md"))
    dead = [problem for page in pages for problem in dead_links(page)]
    for problem in dead:
        print(problem)
    print(f"{len(pages)} documents, {len(dead)} dead links")
    return int(bool(dead))


if __name__ == "__main__":
    sys.exit(main())
