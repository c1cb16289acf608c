"""The page: all names in it are text, and it loads nothing."""

import base64
import hashlib
from html.parser import HTMLParser

from nsbroker.cli.drawing.chart import chart_of
from nsbroker.cli.drawing.page import page
from tests.cli.drawing.test_svg import hostile_host
from tests.cli.imagined import HOSTILE, HOSTILE_AS_TEXT, busy_host


class Elements(HTMLParser):
    """A parser that collects all start tags of a page, and the text of each style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.content: dict[str, list[str]] = {"style": [], "script": []}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.lasttag in self.content and self.cdata_elem == self.lasttag:
            self.content[self.lasttag].append(data)


def test_hostile_names_are_text_in_the_page() -> None:
    text = page(chart_of(hostile_host().namespaces), HOSTILE)
    elements = Elements(text)
    assert [tag for tag, _ in elements.tags].count("script") == 1
    assert [tag for tag, _ in elements.tags].count("style") == 1
    assert "alert" not in "".join(elements.content["script"])
    assert "\x1b" not in text
    assert "\u202e" not in text
    text.encode("utf-8")
    labels = [attributes["data-find"] for _, attributes in elements.tags if "data-find" in attributes]
    assert f"unit:{HOSTILE_AS_TEXT}" in labels


def test_the_page_allows_only_its_own_code_and_loads_nothing() -> None:
    elements = Elements(page(chart_of(busy_host(10).namespaces), "a summary"))
    (policy,) = (
        attributes["content"] for _, attributes in elements.tags if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in (policy or "").split(";"))
    assert rules["default-src"] == "'none'"
    for tag in ("style", "script"):
        digest = hashlib.sha256("".join(elements.content[tag]).encode()).digest()
        assert rules[f"{tag}-src"] == f"'sha256-{base64.b64encode(digest).decode()}'"
    for tag, attributes in elements.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "image", "use")
        assert not {"src", "href", "xlink:href", "style"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in "".join(elements.content["style"])
    assert "@import" not in "".join(elements.content["style"])
