"""The reference is complete: every command, key, limit, error, record field and name of the API has its place in it."""

import ast
import functools
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import nsbroker
from docs.generate import commands, interface, pages, prose, python_api
from nsbroker import errors
from nsbroker.daemon.configuration import AuditSettings, Limits, RuleText
from nsbroker.daemon.record_sink import Record
from nsbroker.model.target import ENGINES, KINDS
from nsbroker.protocol import address, messages
from tests.docs.blocks import CHECKOUT, PAGES

pytestmark = pytest.mark.once

REFERENCE = CHECKOUT / "docs/reference"


@functools.cache
def sources() -> dict[str, str]:
    """Return the Markdown of all pages, with what is generated, by their paths below docs/."""
    return {str(path): text for path, text in pages.sources()}


def terms(page: str, heading: str) -> list[str]:
    """Return the code of all terms below a heading of a page of the reference: what stands above the lines that begin with `:`."""
    text = (REFERENCE / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^(`.*`)\n: ", text, re.MULTILINE)
    return [term for line in lines for term in re.findall(r"`([^`]+)`", line)]


@pytest.mark.parametrize("name", commands.NAMES)
def test_a_command_has_a_page_with_all_its_options(name: str) -> None:
    text = sources()[f"reference/commands/{name}.md"]
    assert f"(commands/{name}.md)" in sources()["reference/nsbroker.md"]
    assert "## Synopsis" in text
    for action in commands.parser(name)._actions:
        for option in action.option_strings or [str(action.metavar)]:
            assert re.search(rf"^`{re.escape(option)}", text, re.MULTILINE), option


def test_every_key_of_a_rule_is_described() -> None:
    assert set(terms("configuration.md", "Rules")) == set(RuleText.__struct_fields__)


def test_every_limit_is_described_with_its_default() -> None:
    limits = msgspec.to_builtins(Limits())
    assert terms("configuration.md", "Limits") == [f"{key.replace('_', '-')} = {value}" for key, value in limits.items()]


def test_every_engine_is_described() -> None:
    assert terms("configuration.md", "Engines") == list(ENGINES)
    for engine in ENGINES:
        assert re.search(rf"^\|.*`{engine}`", (REFERENCE / "engines.md").read_text(), re.MULTILINE), engine


def test_every_setting_of_the_audit_is_described_with_its_default() -> None:
    settings = msgspec.to_builtins(AuditSettings())
    assert terms("configuration.md", "Audit") == [f'{key.replace("_", "-")} = "{value}"' for key, value in settings.items()]


def test_every_environment_variable_that_the_program_reads_is_described() -> None:
    described = set(re.findall(r"`([A-Z_]+)`", (REFERENCE / "environment.md").read_text()))
    texts = [path.read_text() for path in (CHECKOUT / "nsbroker").rglob("*.py")]
    read = {name for text in texts for name in re.findall(r'environ(?:\.get\(|\.pop\(|\[)"([A-Z_]+)"', text)}
    assert len(read) >= 6
    assert read | {address.VARIABLE} <= described


def test_every_kind_of_target_is_described() -> None:
    text = (REFERENCE / "targets.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}:" not in text and f"`{kind}`" not in text] == []


def test_the_fields_of_a_record_are_those_that_are_described() -> None:
    rows = re.findall(r"^\| (`NSBROKER_.*?`) \|", (REFERENCE / "records.md").read_text(), re.MULTILINE)
    described = {name for row in rows for name in re.findall(r"`(NSBROKER_[A-Z_]+)`", row)}
    assert described == {f"NSBROKER_{name.upper()}" for name in Record.__struct_fields__} - {"NSBROKER_TIME"}


def test_every_member_of_the_interface_is_described() -> None:
    text = sources()["reference/protocol.md"]
    members = list(interface.members())
    assert {member.kind for member in members} == {"type", "method", "error"}
    for member in members:
        assert f"### {member.name}\n\n" in text
        assert member.definition in text
        assert member.comment, f"{member.name} has no comment in the interface"
    assert len(members) == len(re.findall("^(?:type|method|error) ", messages.TEXT.read_text(), re.MULTILINE))


def test_every_error_of_the_interface_is_described() -> None:
    text = sources()["reference/protocol.md"]
    for name in errors.WIRE_ERRORS:
        service, _, error = name.rpartition(".")
        assert (f"| `{error}` |" if service == "org.varlink.service" else f"### {error}\n") in text, name


def test_every_name_of_the_package_is_described() -> None:
    text = sources()["reference/python.md"]
    for name in nsbroker.__all__:
        assert name in ("__version__", "NsbrokerError") or f"### nsbroker.{name}\n" in text, name
    for name, _ in inspect.getmembers(nsbroker.Broker, inspect.isfunction):
        assert name.startswith("_") or name == "after_fork" or f"#### Broker.{name}\n" in text, name
    for name, error in inspect.getmembers(errors, inspect.isclass):
        assert name.startswith("_") or not issubclass(error, nsbroker.NsbrokerError) or f"- `{name}`" in text, name


def test_every_man_page_is_a_page() -> None:
    path = CHECKOUT / "docs/conf.py"
    spec = importlib.util.spec_from_file_location("conf", path)
    assert spec is not None
    assert spec.loader is not None
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    names = {f"{name}({section})" for _, name, _, _, section in conf.man_pages}
    assert [page for page, *_ in conf.man_pages if f"{page}.md" not in sources()] == []
    assert names >= {"nsbroker(1)", "nsbroker-via(1)", "nsbroker.toml(5)", "nsbroker-targets(7)", "nsbroker.service(8)"}
    units = "".join((CHECKOUT / "systemd" / unit).read_text() for unit in ("nsbroker.service", "nsbroker.socket"))
    for named in re.findall(r"man:(nsbroker\S*)", units):
        assert named in names, f"a unit names the man page {named}"


@pytest.mark.skipif(importlib.util.find_spec("myst_parser") is None, reason="Sphinx is missing: `make docs` installs it")
def test_the_man_pages_build_without_a_warning(tmp_path: Path) -> None:
    pages.write(tmp_path / "source")
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "man", str(tmp_path / "source"), str(tmp_path / "man")]
    done = subprocess.run(build, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "man/nsbroker-via.1").read_text()
    assert ".SH SYNOPSIS" in text.upper()
    assert "nsbroker\\-targets(7)" in text
    assert "\n.UR \n" not in text


def words_of_the_program() -> list[str]:
    """Return all texts in the source of the program, those of f-strings with … for what is filled in."""
    texts = []
    for path in (CHECKOUT / "nsbroker").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
    return texts


def test_the_headings_of_the_troubleshooting_are_words_of_errors() -> None:
    headings = re.findall("^## `(.*)`$", (CHECKOUT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    texts = words_of_the_program()
    assert len(headings) > 12
    assert [heading for heading in headings if not any(heading in text for text in texts)] == []


def test_nothing_that_is_generated_is_left_out() -> None:
    for path, text in sources().items():
        assert "<!-- generated" not in text, path
        assert text.startswith("# "), path


def test_a_program_is_shown_as_the_file_that_a_test_runs() -> None:
    for name, language in (("fetch.c", "c"), ("fetch.go", "go")):
        text = (CHECKOUT / "examples" / name).read_text()
        assert f"\n```{language}\n{text}```\n" in sources()["how-to/other-languages.md"]


def test_an_unknown_mark_is_an_error() -> None:
    with pytest.raises(KeyError):
        pages.fill("<!-- generated: nothing -->")
    with pytest.raises(KeyError, match="no section"):
        pages.fill("<!-- generated: section SECURITY.md Nothing -->")


def test_the_index_links_every_page() -> None:
    linked = set(re.findall(r"\]\(([a-z0-9/.-]+\.md)\)", (CHECKOUT / "docs/index.md").read_text()))
    there = {str(page.relative_to(CHECKOUT / "docs")) for page in PAGES if page.is_relative_to(CHECKOUT / "docs")}
    assert linked == {page for page in there if not page.startswith("reference/commands/")} - {"index.md"}


def test_links_between_pages_lead_to_pages() -> None:
    for path, text in sources().items():
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert str((Path("/") / path).parent.joinpath(link).resolve().relative_to("/")) in sources(), f"{path}: {link}"


def test_the_readme_is_short() -> None:
    assert len((CHECKOUT / "README.md").read_text().splitlines()) <= 200


def test_plain_text_becomes_markdown() -> None:
    assert prose.line("--tap adds `a_b` to a_b* <now>") == r"`--tap` adds `a_b` to a\_b\* \<now\>"
    assert prose.sentence("choose one") == "Choose one."
    assert prose.document("First.\n\n    if code:\n        run()\n\nadded: new.\ngone: it\nis gone.") == (
        "First.\n\n```python\nif code:\n    run()\n```\n\n- added: new.\n- gone: it is gone."
    )


def test_a_signature_is_written_as_in_the_source() -> None:
    assert "(container: str, type: str = 'net', *," in python_api.describe("nsbroker.namespace.docker.from_docker")
    assert "family: int = socket.AF_INET" in python_api.describe("nsbroker.Broker")
    assert "watch(types: Iterable[str] | None = None, *, open: Iterable[str] | None = None) -> Watch\n" in python_api.describe(
        "nsbroker.Broker"
    )
