"""The figures as SVGs: one scenario for a first look, and a panel for each scenario."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from peers import Peer
from report import Figure, Results, short
from scenarios import Scenario

COLUMNS = 4
MARGIN = 20
LABELS = 176  # the width of the servers' names, left of the panels
PANEL = 172
BAR = 112  # the longest one; behind it there is room for its figure
GAP = 24
LINE = 19
THICK = 11
TITLE = 40
HEADER = 62
FOOTER = 48

#: It brings its own background, so that it is readable wherever it is shown.
STYLE = """
text { fill: #1f2328; font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, sans-serif }
.head { font-size: 16px; font-weight: 600 }
.title { font-weight: 600 }
.faint { fill: #59636e }
.small { font-size: 11px }
.end { text-anchor: end }
.own { font-weight: 600 }
.figure { font-size: 11px; stroke: #ffffff; stroke-width: 3; paint-order: stroke }
.page { fill: #ffffff; stroke: #d1d9e0 }
.bar { fill: #afb8c1 }
.bar.first { fill: #0969da }
.bar.second { fill: #80b6f2 }
.spread { stroke: #1f2328; stroke-opacity: .55 }
.one { stroke: #59636e; stroke-dasharray: 2 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .faint { fill: #9198a1 }
  .page { fill: #0d1117; stroke: #3d444d }
  .figure { stroke: #0d1117 }
  .bar { fill: #59636e }
  .bar.first { fill: #4493f8 }
  .bar.second { fill: #2a5994 }
  .spread { stroke: #f0f6fc }
  .one { stroke: #9198a1 }
}
"""


def draw(results: Results) -> str:
    """The whole picture."""
    shown = [scenario for scenario in results.scenarios if not scenario.has_schedule]
    ordered = sorted(shown, key=lambda scenario: scenario.is_memory)
    lines = -(-len(ordered) // COLUMNS)
    width = 2 * MARGIN + LABELS + COLUMNS * PANEL
    panel_height = TITLE + len(results.peers) * LINE + GAP
    height = HEADER + lines * panel_height + FOOTER
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img">',
        f"<title>Speed relative to {escape(results.reference.name)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="6"/>',
        *_draw_header(results),
    ]
    for i in range(lines):
        top = HEADER + i * panel_height
        parts += _draw_labels(results, top + TITLE)
        for j, scenario in enumerate(ordered[i * COLUMNS : (i + 1) * COLUMNS]):
            parts += _draw_panel(results, scenario, MARGIN + LABELS + j * PANEL, top)
    parts += _draw_footer(results, height - FOOTER)
    return "\n".join([*parts, "</svg>", ""])


def draw_costs(results: Results, scenario: Scenario) -> str:
    """One scenario, the cheapest server first: what the documentation begins with."""
    costs = [(peer, results.costs(scenario, peer)) for peer in results.peers]
    measured = [(peer, figure) for peer, figure in costs if figure]
    ordered = sorted(measured, key=lambda cost: cost[1].median)
    width, left = 640, 232
    height = HEADER + len(ordered) * (LINE + 5) + GAP // 2
    scale = (width - left - 3 * MARGIN) / ordered[-1][1].median
    title = "CPU time of the server for one message, in µs: shorter is faster"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img">',
        f"<title>{title}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="6"/>',
        _text(MARGIN, 30, title, "head"),
        _text(MARGIN, 49, f"{scenario.title}, {scenario.subtitle}", "faint"),
    ]
    for i, (peer, figure) in enumerate(ordered):
        y = HEADER + i * (LINE + 5)
        own = "own" if _kind_of(peer) else ""
        parts.append(_text(left - 12, y + THICK, peer.title, f"end {own}"))
        bar = figure.median * scale
        parts.append(
            f'<rect class="bar {_kind_of(peer)}" x="{left}" y="{y - 1}" width="{bar:.1f}"'
            f' height="{THICK + 4}"/>'
        )
        parts.append(_text(left + bar + 5, y + THICK, short(figure.median), "figure"))
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, text: str, classes: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{classes}">{escape(text)}</text>'


def _draw_header(results: Results) -> Iterator[str]:
    unit = f"{results.reference.name} is 1, longer is faster"
    yield _text(MARGIN, 30, f"Speed of WebSocket echo servers: {unit}", "head")
    yield _text(
        MARGIN,
        49,
        "By the server's CPU time for a message or a handshake. Bars are medians,"
        f" lines the spread. Rounds: {results.rounds}.",
        "faint",
    )


def _draw_footer(results: Results, top: float) -> Iterator[str]:
    versions = results.machine.versions
    software = ", ".join(f"{name} {versions[name]}" for name in ("gevent", "uvloop", "gunicorn"))
    yield _text(MARGIN, top + 14, str(results.machine), "faint small")
    yield _text(MARGIN, top + 30, software, "faint small")


def _draw_labels(results: Results, top: float) -> Iterator[str]:
    for i, peer in enumerate(results.peers):
        own = "own" if _kind_of(peer) else ""
        label = peer.label(results.machine.versions)
        yield _text(MARGIN + LABELS - 12, top + i * LINE + THICK - 1, label, f"end {own}")


def _draw_panel(results: Results, scenario: Scenario, x: float, top: float) -> Iterator[str]:
    """Memory and compression, which the reference does not have, are what they are; all else is a
    ratio."""
    unit = "" if scenario.is_relative else ", shorter is better"
    if scenario.mode == "deflate":
        unit = f" in µs{unit}"
    yield _text(x, top + 12, scenario.title, "title")
    yield _text(x, top + 28, scenario.subtitle + unit, "faint small")
    figure_of = results.speeds if scenario.is_relative else results.costs
    figures = [figure_of(scenario, peer) for peer in results.peers]
    longest = max((figure.most for figure in figures if figure), default=1)
    scale = BAR / longest
    top += TITLE
    if scenario.is_relative:
        one = x + scale
        bottom = top + len(figures) * LINE - 4
        yield f'<line class="one" x1="{one:.1f}" y1="{top - 4}" x2="{one:.1f}" y2="{bottom}"/>'
    for i, figure in enumerate(figures):
        if scenario.suits(results.peers[i]):
            yield from _draw_bar(figure, x, top + i * LINE, scale, _kind_of(results.peers[i]))


def _kind_of(peer: Peer) -> str:
    if peer.package != "geventws":
        return ""
    return "second" if peer.environ else "first"


def _draw_bar(figure: Figure | None, x: float, y: float, scale: float, kind: str) -> Iterator[str]:
    if figure is None:
        yield _text(x, y + THICK - 1, "failed", "faint small")
        return
    width = max(figure.median * scale, 1)
    least, most = x + figure.least * scale, x + figure.most * scale
    middle = y + THICK / 2
    yield f'<rect class="bar {kind}" x="{x:g}" y="{y:g}" width="{width:.1f}" height="{THICK}"/>'
    yield f'<line class="spread" x1="{least:.1f}" y1="{middle}" x2="{most:.1f}" y2="{middle}"/>'
    yield _text(max(x + width, most) + 5, y + THICK - 1, short(figure.median), "figure")
