"""The page of `nsbroker map` in a real browser: what people see, point at and type, and what the page must never do."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsbroker.cli.drawing.chart import Chart, chart_of
from nsbroker.cli.drawing.page import page
from nsbroker.cli.drawing.svg import picture
from tests.browser.webdriver import Browser
from tests.cli.imagined import HOSTILE, HOSTILE_AS_TEXT, POD, Imagined, T, busy_host
from tests.world import Daemon, run_command

Show = Callable[[Imagined], Chart]

# Each of these is the body of a function that runs in the page.
NAMES = "return [...document.querySelectorAll(arguments[0])].map(one => one.dataset.find)"
PANEL = "return document.getElementById('panel').innerText"
FOCUS = "return document.activeElement.dataset.find ?? document.activeElement.id"
OPACITY = "return [...document.querySelectorAll(arguments[0])].map(one => Number(getComputedStyle(one).opacity))"
SCROLLED = "return document.getElementById('map').scrollLeft"


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Show]:
    """A function that opens the page of a host.  Afterwards, check that there were no errors and that only the page was loaded."""

    def open_page(host: Imagined) -> Chart:
        chart = chart_of(host.namespaces)
        file = tmp_path / "map.html"
        file.write_text(page(chart, "a summary"))
        browser.open(file)
        return chart

    yield open_page
    assert browser.complaints() == []
    assert {url.partition(":")[0] for url in browser.requests()} == {"file"}
    assert browser.run("return performance.getEntriesByType('resource').length") == 0


def pod_host() -> Imagined:
    host = Imagined()
    host.unit("ssh.service")
    host.pod("shop/checkout", "app", "log")
    host.container("docker:web", (*POD, T.MNT))
    return host


def names(browser: Browser, selector: str) -> list[str]:
    return [str(name) for name in browser.run(NAMES, selector)]


def test_search_marks_what_it_finds_and_dims_the_rest(browser: Browser, show: Show) -> None:
    show(pod_host())
    assert set(browser.run(OPACITY, ".bar")) == {1}
    browser.press("/", *"CHECKOUT")
    assert browser.run(FOCUS) == "search"
    assert names(browser, ".column.found") == ["cri:shop/checkout", "cri:shop/checkout/app", "cri:shop/checkout/log"]
    assert browser.run("return document.getElementById('found').value") == "3 of 5 columns"
    assert set(browser.run(OPACITY, ".bar.found")) == {1}
    assert max(browser.run(OPACITY, ".bar:not(.found)")) < 0.5
    assert max(browser.run(OPACITY, ".column:not(.found) text")) < 0.5
    browser.press("Escape")
    assert names(browser, ".found") == []
    assert set(browser.run(OPACITY, ".bar")) == {1}


def test_search_finds_units_in_the_hosts_column_inodes_and_commands(browser: Browser, show: Show) -> None:
    host = pod_host()
    unusual = host.make(T.UTS, "/usr/bin/unusual --flag")
    show(host)
    for words, found in {
        "ssh.serv": ["host unit:ssh.service"],
        str(unusual.inode): [f"process {unusual.process and unusual.process.pid} unusual"],
        "--flag": [f"process {unusual.process and unusual.process.pid} unusual"],
        "nothing has this": [],
    }.items():
        browser.press("/", *words)
        assert [name.replace("unit:init.scope ", "") for name in names(browser, ".column.found")] == found
        browser.press("Escape")
        browser.run("document.activeElement.blur()")


def test_pointing_at_a_namespace_describes_it_and_highlights_who_shares_it(browser: Browser, show: Show) -> None:
    chart = show(pod_host())
    bar = next(bar for bar in chart.bars if bar.colour is not None and bar.ns.type is T.NET)
    selector = f".bar[data-find^='net:[{bar.ns.inode}]']"
    browser.point(f"{selector} rect")
    shown = browser.run(PANEL)
    assert shown.startswith(f"net:[{bar.ns.inode}]")
    for words in ("shared by", "cri:shop/checkout, cri:shop/checkout/app, cri:shop/checkout/log", "/bin/sleep 1000"):
        assert words in shown
    assert names(browser, ".column.on") == ["cri:shop/checkout", "cri:shop/checkout/app", "cri:shop/checkout/log"]
    assert len(names(browser, ".bar.on")) == 1
    assert browser.run(OPACITY, selector) == [1]
    assert max(browser.run(OPACITY, ".bar:not(.on)")) < 0.5
    browser.point("h1")
    assert names(browser, ".on") == []
    assert "Point at" in browser.run(PANEL)


def test_pointing_at_a_column_highlights_its_namespaces_and_who_shares_them(browser: Browser, show: Show) -> None:
    show(pod_host())
    browser.point(".column[data-find='cri:shop/checkout/app'] .back")
    assert "cri:shop/checkout/app" in browser.run(PANEL)
    assert names(browser, ".column.on") == ["cri:shop/checkout", "cri:shop/checkout/app", "cri:shop/checkout/log"]
    assert len(names(browser, ".bar.on")) == 8


def test_a_click_keeps_the_highlight_until_escape(browser: Browser, show: Show) -> None:
    show(pod_host())
    browser.point(".bar.shared rect", click=True)
    kept = browser.run(PANEL)
    browser.point(".bar.host rect")
    assert browser.run(PANEL) == kept
    assert browser.run("return document.querySelector('.kept').getAttribute('aria-pressed')") == "true"
    browser.point("h1")
    browser.press("Escape")
    assert names(browser, ".kept") == []


def test_the_keyboard_reaches_everything(browser: Browser, show: Show) -> None:
    chart = show(pod_host())
    browser.run("document.getElementById('search').focus()")
    browser.press("Tab")
    assert browser.run(FOCUS).startswith("host")
    browser.press("ArrowDown")
    assert browser.run(FOCUS).startswith("net:[")
    assert browser.run(PANEL).startswith("net:[")
    browser.press("ArrowRight", "ArrowRight")
    first = browser.run(FOCUS)
    browser.press("ArrowRight")
    assert browser.run(FOCUS) == first
    browser.press("Home", "ArrowDown")
    assert browser.run(FOCUS).startswith("ipc:[")
    browser.press("End", *["ArrowUp"] * 9)
    assert browser.run(FOCUS) == chart.columns[-1].label
    browser.press("Enter")
    assert names(browser, ".kept") == [chart.columns[-1].label]
    browser.press("Escape", *["ArrowDown"] * 20)
    assert browser.run(FOCUS).startswith("time:[")
    assert len(browser.run("return [...document.querySelectorAll('#plot [tabindex=\"0\"]')]")) == 1


def test_every_namespace_has_a_label_for_screen_readers(browser: Browser, show: Show) -> None:
    show(pod_host())
    for label in browser.run("return [...document.querySelectorAll('.bar')].map(one => one.getAttribute('aria-label'))"):
        assert "processes: " in label
    assert browser.run("return [...document.querySelectorAll('svg')].every(one => one.getAttribute('aria-label'))")


def test_hostile_names_are_shown_and_run_nothing(browser: Browser, show: Show) -> None:
    host = Imagined()
    host.container(f"docker:{HOSTILE}", (T.NET,))
    host.make(T.UTS, f"{HOSTILE} <img src=x onerror=alert(1)>")
    show(host)
    assert f"docker:{HOSTILE_AS_TEXT}" in names(browser, ".column")
    browser.point(".bar[data-find*='script'] rect")
    assert "<img src=x onerror=alert(1)>" in browser.run(PANEL)
    assert browser.run("return document.querySelectorAll('script, img, #panel script').length") == 1


def test_a_script_that_is_injected_into_the_page_does_not_run(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "map.html"
    text = page(chart_of(pod_host().namespaces), "a summary")
    file.write_text(text.replace("<h1>", "<img src=https://example.org/x onerror=window.ran=1><script>window.ran=1</script><h1>"))
    browser.open(file)
    assert browser.run("return window.ran") is None
    assert "Content Security Policy" in str(browser.complaints())


def test_two_hundred_columns_scroll_below_row_labels_that_stay(browser: Browser, show: Show) -> None:
    chart = show(busy_host(200))
    assert len(chart.columns) > 190
    where = "return document.getElementById('labels').getBoundingClientRect().left"
    before = browser.run(where)
    last = chart.columns[-1].label
    browser.press("/", *last)
    assert browser.run(SCROLLED) > 10000
    assert browser.run(where) == before
    box = browser.run(
        "const box = document.querySelector('.column.found').getBoundingClientRect();"
        "const labels = document.getElementById('labels').getBoundingClientRect();"
        "return [labels.right, box.left, box.right, innerWidth]"
    )
    assert box == sorted(box)
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    browser.press("Escape", "/", *"app", "Enter")
    assert browser.run("return document.getElementById('found').value").startswith("2 of ")


def test_the_headings_fit_their_columns(browser: Browser, show: Show) -> None:
    show(busy_host(200))
    script = "return Math.max(...[...document.querySelectorAll('.column text')].map(one => one.getBBox().width))"
    assert browser.run(script) <= 118


@pytest.mark.parametrize("columns", [1, 10, 200])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_the_picture_follows_the_preferred_colours(
    browser: Browser, dark_browser: Browser, tmp_path: Path, columns: int, colours: str
) -> None:
    window = browser if colours == "light" else dark_browser
    chart = chart_of(busy_host(columns).namespaces)
    for file, text in ((tmp_path / "map.svg", picture(chart, "a summary")), (tmp_path / "map.html", page(chart, "a summary"))):
        file.write_text(text)
        window.open(file)
        if columns == 10:
            window.run("document.querySelector('.bar.shared').dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))")
        if "NSBROKER_SCREENSHOTS" in os.environ:
            window.screenshot(Path(os.environ["NSBROKER_SCREENSHOTS"], f"{columns}-{colours}{file.suffix}.png"))
        assert window.complaints() == []
        ink = window.run("return getComputedStyle(document.querySelector('.chart .name')).fill")
        assert (ink == "rgb(27, 31, 36)") == (colours == "light")


def test_the_page_that_the_command_writes_works(daemon: Daemon, browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "map.html"
    assert run_command("map", str(file), address=daemon.address).returncode == 0
    browser.open(file)
    assert browser.complaints() == []
    browser.point(".bar rect")
    assert "processes" in browser.run(PANEL)
