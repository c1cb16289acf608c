"""The picture: a valid drawing in which all names are text."""

import xml.etree.ElementTree as ElementTree

import pytest

from nsbroker.cli.drawing import svg
from nsbroker.cli.drawing.chart import chart_of
from nsbroker.cli.drawing.svg import picture
from tests.cli.imagined import HOSTILE, HOSTILE_AS_TEXT, Imagined, T, busy_host

SVG = "{http://www.w3.org/2000/svg}"


def hostile_host() -> Imagined:
    host = Imagined()
    host.container(f"docker:{HOSTILE}", (T.NET,))
    host.unit(HOSTILE, (T.MNT,))
    host.make(T.NET, HOSTILE)
    host.bound(f"/run/netns/{HOSTILE}")
    return host


def draw(host: Imagined) -> ElementTree.Element:
    return ElementTree.fromstring(picture(chart_of(host.namespaces), "a summary"))


def titles(root: ElementTree.Element, look: str) -> list[str]:
    groups = (group for group in root.iter(f"{SVG}g") if look in group.get("class", "").split())
    return [group.findtext(f"{SVG}title") or "" for group in groups]


@pytest.mark.parametrize("columns", [1, 10, 200])
def test_the_picture_is_valid_and_has_a_bar_for_each_namespace(columns: int) -> None:
    host = busy_host(columns)
    root = draw(host)
    assert len(titles(root, "bar")) == len(host.namespaces)
    assert {title.split("\n")[0] for title in titles(root, "bar")} == {f"{one.type}:[{one.inode}]" for one in host.namespaces}
    assert root.get("role") == "img"
    named = {one.get("id"): one.text for one in root if one.get("id")}
    assert [named[name] for name in (root.get("aria-labelledby") or "").split()]
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for rect in root.iter(f"{SVG}rect"):
        assert float(rect.get("width", 0)) > 0
        assert float(rect.get("x", 0)) < width
        assert float(rect.get("y", 0)) < height


def test_a_bar_shows_its_inode_and_the_rest_in_its_tooltip() -> None:
    host = Imagined()
    net = host.container("docker:web", (T.NET,))[T.NET]
    root = draw(host)
    (title,) = (title for title in titles(root, "bar") if title.startswith(f"net:[{net.inode}]"))
    for line in ("of: docker:web", "processes: 1", "leader: 101 /bin/sleep 1000 (uid 0)", "owner: uid 0"):
        assert line in title.split("\n")
    assert str(net.inode) in [text.text for text in root.iter(f"{SVG}text")]


def test_a_bar_across_many_columns_shows_its_inode_again_and_again() -> None:
    host = busy_host(100)
    texts = [text.text for text in draw(host).iter(f"{SVG}text")]
    assert texts.count(str(host.host[T.TIME].inode)) > 10


def test_hostile_names_are_text_in_the_picture() -> None:
    root = draw(hostile_host())
    words = " ".join(titles(root, "column"))
    for label in (f"docker:{HOSTILE_AS_TEXT}", f"unit:{HOSTILE_AS_TEXT}", f"bound file /run/netns/{HOSTILE_AS_TEXT}"):
        assert label in words
    assert not list(root.iter(f"{SVG}script"))
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "title", "desc", "style", "g", "rect", "text", "path",
    }  # fmt: skip


def test_the_colours_of_shared_namespaces_have_a_rule_each() -> None:
    used = {bar.colour for bar in chart_of(busy_host(100).namespaces).bars if bar.colour is not None}
    assert len(used) > 3
    for colour in used:
        assert f".c{colour} rect" in svg.STYLE
