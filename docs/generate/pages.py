"""The pages of docs/, with what is generated in them."""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from docs.generate import commands, interface, python_api

DOCS = Path(__file__).parent.parent
CHECKOUT = DOCS.parent
_COMMANDS = Path("reference/commands")
_MARK = re.compile(r"^<!-- generated: ([a-z]+)(?: (.+))? -->$", re.MULTILINE)


def sources() -> Iterator[tuple[Path, str]]:
    """Yield all pages: the path below docs/, and the Markdown, with everything that is generated."""
    written = {path.relative_to(DOCS): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
    for name in commands.NAMES:
        written.setdefault(_COMMANDS / f"{name}.md", f"# nsbroker {name}\n\n<!-- generated: command {name} -->\n")
    for path, text in written.items():
        yield path, fill(text) + (_SEE_ALSO if path.parent == _COMMANDS else "")


def fill(text: str) -> str:
    """Return the Markdown of a page with what is generated instead of its marks.  Raises KeyError for an unknown mark."""
    return _MARK.sub(lambda mark: _GENERATORS[mark[1]](mark[2] or ""), text)


def write(folder: Path) -> None:
    """Write the pages and the settings of Sphinx into `folder`, and remove what was there before."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, text in sources():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    shutil.copy(DOCS / "conf.py", folder)


def _contents(_: str) -> str:
    """Return the table of contents for Sphinx: the pages that index.md links, and those of all commands."""
    linked = re.findall(r"\]\(([a-z0-9/.-]+\.md)\)", (DOCS / "index.md").read_text())
    pages = [*dict.fromkeys(linked), *(str(_COMMANDS / f"{name}.md") for name in commands.NAMES)]
    return "\n".join(["```{toctree}", ":hidden:", "", *pages, "```"])


def _section(which: str) -> str:
    """Return the text below a heading of a file of the checkout.  `which` is the file's name, a space, and the heading."""
    name, _, heading = which.partition(" ")
    text = (CHECKOUT / name).read_text()
    _, found, below = text.partition(f"\n## {heading}\n")
    if not found:
        raise KeyError(f"{name} has no section {heading!r}")
    return below.partition("\n## ")[0].strip()


def _program(path: str) -> str:
    """Return a file of the checkout as a block of code, with the language that its suffix says."""
    language = {".c": "c", ".go": "go", ".service": "ini"}[Path(path).suffix]
    return f"```{language}\n{(CHECKOUT / path).read_text().rstrip()}\n```"


_GENERATORS: Mapping[str, Callable[[str], str]] = {
    "command": commands.command,
    "commands": lambda _: commands.groups(),
    "contents": _contents,
    "interface": interface.section,
    "program": _program,
    "python": python_api.describe,
    "errors": lambda _: python_api.error_tree(),
    "section": _section,
}
_SEE_ALSO = """
## See also

[nsbroker(1)](../nsbroker.md), [nsbroker-targets(7)](../targets.md), [nsbroker.toml(5)](../configuration.md),
[nsbroker.service(8)](../service.md)
"""
