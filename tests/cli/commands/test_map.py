"""The picture and the page: what is in them, and that they come to the disk whole or not at all."""

import base64
import hashlib
import os
import re
import tempfile
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nsbroker.cli.drawing import svg
from nsbroker.cli.drawing.chart import chart_of
from nsbroker.cli.drawing.page import page
from nsbroker.cli.drawing.svg import picture
from tests.cli.imagined import HOSTILE, HOSTILE_AS_TEXT, Imagined, T, busy_host
from tests.world import ALICE, Daemon, Sleeper, run_command

SVG = "{http://www.w3.org/2000/svg}"


def hostile_host() -> Imagined:
    host = Imagined()
    host.container(f"docker:{HOSTILE}", (T.NET,))
    host.unit(HOSTILE, (T.MNT,))
    host.make(T.NET, HOSTILE)
    host.bound(f"/run/netns/{HOSTILE}")
    return host


def draw(host: Imagined) -> ElementTree.Element:
    return ElementTree.fromstring(picture(chart_of(host.spaces), "a summary"))


def titles(root: ElementTree.Element, look: str) -> list[str]:
    groups = (group for group in root.iter(f"{SVG}g") if look in group.get("class", "").split())
    return [group.findtext(f"{SVG}title") or "" for group in groups]


class Elements(HTMLParser):
    """All start tags of a page, and the text in each style and script."""

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


@pytest.mark.parametrize("columns", [1, 10, 200])
def test_the_picture_is_valid_and_has_a_bar_for_each_namespace(columns: int) -> None:
    host = busy_host(columns)
    root = draw(host)
    assert len(titles(root, "bar")) == len(host.spaces)
    assert {title.split("\n")[0] for title in titles(root, "bar")} == {f"{one.type}:[{one.inode}]" for one in host.spaces}
    assert root.get("role") == "img"
    named = {one.get("id"): one.text for one in root if one.get("id")}
    assert [named[name] for name in (root.get("aria-labelledby") or "").split()]
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for rect in root.iter(f"{SVG}rect"):
        assert float(rect.get("width", 0)) > 0
        assert float(rect.get("x", 0)) < width
        assert float(rect.get("y", 0)) < height


def test_a_bar_shows_its_inode_and_tells_the_rest_in_its_tip() -> None:
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


def test_hostile_names_are_text_in_the_page() -> None:
    text = page(chart_of(hostile_host().spaces), HOSTILE)
    elements = Elements(text)
    assert [tag for tag, _ in elements.tags].count("script") == 1
    assert [tag for tag, _ in elements.tags].count("style") == 1
    assert "alert" not in "".join(elements.content["script"])
    assert "\x1b" not in text
    assert "\u202e" not in text
    text.encode("utf-8")
    labels = [attributes["data-find"] for _, attributes in elements.tags if "data-find" in attributes]
    assert f"unit:{HOSTILE_AS_TEXT}" in labels


def test_the_page_allows_itself_alone_and_refers_to_nothing() -> None:
    elements = Elements(page(chart_of(busy_host(10).spaces), "a summary"))
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


def test_the_colours_of_shared_namespaces_have_a_rule_each() -> None:
    used = {bar.colour for bar in chart_of(busy_host(100).spaces).bars if bar.colour is not None}
    assert len(used) > 3
    for colour in used:
        assert f".c{colour} rect" in svg.STYLE


# --- the command


@pytest.mark.parametrize("name", ["map", "map.png", "map.svg.txt", ".svg"])
def test_another_ending_is_wrong_usage(tmp_path: Path, name: str) -> None:
    done = run_command("map", str(tmp_path / name))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert run_command("map", "x.svg", "--type", "network").returncode == 2


def test_the_command_draws_what_there_is(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "map.svg"
    with Sleeper() as sleeper:
        done = run_command("map", str(file), address=daemon.address)
        assert done.returncode == 0, done.stderr
        root = ElementTree.fromstring(file.read_text())
        said = re.fullmatch(rf"{re.escape(str(file))}: (\d+) namespaces, (\d+) columns\n", done.stdout)
        assert said
        assert [len(titles(root, look)) for look in ("bar", "column")] == [int(said[1]), int(said[2])]
        bars = titles(root, "bar")
        for kind in ("net", "uts", "ipc"):
            (title,) = (title for title in bars if title.startswith(f"{kind}:[{sleeper.inode(kind)}]"))
            assert f"leader: {sleeper.pid} " in title
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".nsbroker")]


def test_types_choose_rows(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "map.html"
    done = run_command("map", str(file), "--type", "uts", "--type", "ipc", address=daemon.address)
    assert done.returncode == 0, done.stderr
    rows = [
        attributes["data-find"] or ""
        for _, attributes in Elements(file.read_text()).tags
        if (attributes.get("class") or "").startswith("bar ")
    ]
    assert {row.partition(":")[0] for row in rows} == {"uts", "ipc"}


@pytest.mark.root
def test_a_named_network_is_a_column(daemon: Daemon, blue: Path, tmp_path: Path) -> None:
    file = tmp_path / "map.svg"
    assert run_command("map", str(file), address=daemon.address).returncode == 0
    root = ElementTree.fromstring(file.read_text())
    assert [title for title in titles(root, "column") if title.split("\n")[0] == f"bound file {blue}"]
    (title,) = (title for title in titles(root, "bar") if title.startswith(f"net:[{blue.stat().st_ino}]"))
    assert f"held by: {blue}" in title


@pytest.mark.root
def test_what_the_broker_holds_is_a_column(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "map.svg"
    assert run_command("create", "lab", address=daemon.address).returncode == 0
    assert run_command("map", str(file), address=daemon.address).returncode == 0
    columns = titles(ElementTree.fromstring(file.read_text()), "column")
    assert [title for title in columns if title.split("\n")[0] == "held as name:lab"]


@pytest.mark.root
def test_who_may_see_less_draws_less(daemon: Daemon, sleeper: Sleeper) -> None:
    with tempfile.TemporaryDirectory() as folder, Sleeper("--uts", uid=ALICE) as alices:
        os.chown(folder, ALICE, ALICE)
        own = Path(folder, "of-alice.svg")
        done = run_command("map", str(own), uid=ALICE, address=daemon.address)
        assert done.returncode == 0, done.stderr
        said = " ".join(titles(ElementTree.fromstring(own.read_text()), "bar"))
        assert f"uts:[{alices.inode('uts')}]" in said
        assert f"uts:[{sleeper.inode('uts')}]" not in said
        assert own.stat().st_uid == ALICE


def test_a_link_is_replaced_and_not_followed(daemon: Daemon, tmp_path: Path) -> None:
    precious, link = tmp_path / "precious", tmp_path / "map.svg"
    precious.write_text("precious")
    link.symlink_to(precious)
    assert run_command("map", str(link), address=daemon.address).returncode == 0
    assert precious.read_text() == "precious"
    assert not link.is_symlink()
    assert link.read_text().startswith("<?xml")


def test_the_file_has_the_mode_that_the_umask_leaves(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "map.svg"
    assert run_command("map", str(file), address=daemon.address, umask=0o027).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "folder.svg"
    folder.mkdir()
    before = sorted(os.listdir(tmp_path))
    for path in (folder, tmp_path / "nowhere/map.svg", tmp_path / f"{'x' * 300}.svg"):
        done = run_command("map", str(path), address=daemon.address)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"nsbroker: cannot write {path}: ")
        assert done.stderr.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before


def test_no_daemon_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "map.svg"
    file.write_text("old")
    done = run_command("map", str(file), address="unix:/run/nowhere/socket")
    assert done.returncode == 1
    assert file.read_text() == "old"
    assert done.stderr.count("\n") == 1
