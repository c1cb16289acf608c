"""Plain text of docstrings, help texts and comments, as Markdown."""

import inspect
import re
import textwrap
from collections.abc import Iterator

_OPTION = re.compile(r"((?<![\w-])--[a-z][a-z-]*)")
_MARKS = re.compile(r"([\\*_<>\[\]{}|#~])")
_ITEM = re.compile(r"(?:\* +|(?=`?[A-Za-z]\w*`?: ))")


def line(text: str) -> str:
    """Return one paragraph of `text` as Markdown.  What is in backticks stays code, options become code, marks are escaped."""
    words = " ".join(text.split())
    parts = words.split("`")
    if len(parts) % 2 == 0:
        return _escape(words)
    return "".join(f"`{part}`" if number % 2 else _mark_options(part) for number, part in enumerate(parts))


def sentence(text: str) -> str:
    """Return a help text, which begins with a small letter and has no period, as a sentence in Markdown."""
    marked = line(text)
    return marked[:1].upper() + marked[1:] + ("" if marked.endswith(".") else ".")


def document(text: str, language: str = "python") -> str:
    """Return a docstring or a comment as Markdown.  Indented blocks become code of `language`."""
    return "\n\n".join(_blocks(inspect.cleandoc(text), language))


def _blocks(text: str, language: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.split("\n")
        if all(line.startswith("    ") for line in lines):
            yield f"```{language}\n{textwrap.dedent(block)}\n```"
        elif _ITEM.match(lines[0]) and len(lines) > 1:
            yield "\n".join(f"- {line(item)}" for item in _items(lines))
        else:
            yield line(block)


def _items(lines: list[str]) -> Iterator[str]:
    """Yield the items of a list, each of which begins with `* ` or with a name and a colon."""
    item = ""
    for each in lines:
        if match := _ITEM.match(each):
            if item:
                yield item
            item = each[match.end() :]
        else:
            item += f" {each}"
    yield item


def _mark_options(text: str) -> str:
    return "".join(f"`{part}`" if number % 2 else _escape(part) for number, part in enumerate(_OPTION.split(text)))


def _escape(text: str) -> str:
    return _MARKS.sub(r"\\\1", text)
