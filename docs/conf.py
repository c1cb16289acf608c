"""The settings of Sphinx.  `make docs` copies this file beside the pages that `docs.generate` has written."""

from typing import Any

from docs.generate import commands
from nsbroker.version import VERSION

project = "nsbroker"
release = version = VERSION

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
# "--" is the beginning of an option here, and never a dash.
smartquotes = False
nitpicky = True

html_theme = "alabaster"
html_theme_options = {"description": "Linux namespaces for programs that are not root", "page_width": "1100px"}
html_show_copyright = False
html_show_sphinx = False

man_show_urls = False
man_pages = [
    ("reference/nsbroker", "nsbroker", "open Linux namespaces without being root", "", 1),
    ("reference/configuration", "nsbroker.toml", "configuration and policy of nsbroker", "", 5),
    ("reference/targets", "nsbroker-targets", "how to write where a namespace is", "", 7),
    ("reference/service", "nsbroker.service", "the broker as a systemd service", "", 8),
    *((f"reference/commands/{name}", f"nsbroker-{name}", commands.summary(name), "", 1) for name in commands.NAMES),
]


def setup(app: Any) -> None:
    """Have Sphinx call what is below."""
    app.connect("doctree-resolved", _drop_links_in_man_pages)


def _drop_links_in_man_pages(app: Any, document: Any, _: str) -> None:
    """Leave only the words of links between pages: a man page would have an empty address behind them."""
    from docutils import nodes  # only Sphinx calls this, and has it

    if app.builder.name == "man":
        for link in list(document.findall(nodes.reference)):
            if link.get("internal"):
                link.replace_self(link.children)
