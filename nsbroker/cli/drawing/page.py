"""Write a chart as one self-contained HTML page, with a search and a panel that shows details."""

import base64
import hashlib
from html import escape
from pathlib import Path

from nsbroker.cli.drawing import svg
from nsbroker.cli.drawing.chart import Chart
from nsbroker.model.text import escaped

_STYLE = "\n" + svg.STYLE + Path(__file__).with_name("page.css").read_text()
_SCRIPT = "\n" + Path(__file__).with_name("page.js").read_text()

# Leave room at the left edge for outlines, which are drawn outside their elements.
_EDGE = 6


def page(chart: Chart, summary: str) -> str:
    """Return the HTML page.  `summary` is shown below its title."""
    tall = svg.height(chart) + 8
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(_content_security_policy())}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width">
<title>Who shares which namespaces</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>Who shares which namespaces</h1>
<p>{escape(escaped(summary))}</p>
<label for="search">Search</label>
<input id="search" type="search" placeholder="name, inode or command" autocomplete="off" spellcheck="false">
<output id="found" for="search"></output>
</header>
<main id="map">
{_svg_part("labels", svg.row_labels(chart), svg.GUTTER, tall)}
{_svg_part("plot", svg.plot(chart), svg.plot_width(chart), tall, "Columns and namespaces; move with the arrow keys")}
</main>
<section id="panel" aria-live="polite" aria-label="Details"><p>Point at a namespace or a column to see what it is and who \
shares it. Click it or press Enter to keep the details here; press Escape to clear them. Press <kbd>/</kbd> to search. The arrow \
keys move.</p></section>
<footer>{_svg_part("legend", svg.legend(), svg.LEGEND_WIDTH, 16, "What the colours mean")}</footer>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _svg_part(name: str, content: str, width: int, tall: int, label: str = "What the rows are") -> str:
    return (
        f'<svg id="{name}" class="chart" role="group" aria-label="{label}" data-column-width="{svg.COLUMN}" '
        f'width="{width + _EDGE}" height="{tall}" viewBox="{-_EDGE} 0 {width + _EDGE} {tall}">\n{content}\n</svg>'
    )


def _content_security_policy() -> str:
    """Return a content security policy: load nothing, use only this style and script, and never turn text into markup."""
    return (
        f"default-src 'none'; style-src '{_hash(_STYLE)}'; script-src '{_hash(_SCRIPT)}'; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
