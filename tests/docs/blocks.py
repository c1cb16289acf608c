"""The fenced blocks of the documents."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).parent.parent.parent
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
"""The documents for users.  Each of their blocks has a language."""

_BLOCK = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_PROMPTS = ("$ ", "# ")


class Block(NamedTuple):
    """A fenced block: the page that it is on, its language, and its text without the fences and the indentation."""

    page: Path
    language: str
    text: str

    @property
    def name(self) -> str:
        """The page and the first line, to tell one block from another."""
        return f"{self.page.relative_to(CHECKOUT)}: {self.text.splitlines()[0][:40]}"


class Command(NamedTuple):
    """A command line of a console block: whether it is for root, and the lines that are shown below it."""

    line: str
    as_root: bool
    output: list[str]


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages that have one of these languages; without any, all blocks."""
    found = (block for page in PAGES for block in blocks_of(page))
    return [block for block in found if not languages or block.language in languages]


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page."""
    for match in _BLOCK.finditer(page.read_text()):
        yield Block(page, match[2], textwrap.dedent(match[3]))


def commands(block: Block) -> list[Command]:
    """Return the command lines of a console block.  `$` is the prompt of an ordinary user, `#` that of root."""
    found: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith(_PROMPTS):
            found.append(Command(line[2:], line.startswith("# "), []))
        elif line:
            assert found, f"{block.name}: the first line has no prompt"
            found[-1].output.append(line)
    return found
