"""Generate the calls and methods of the blocking client from those of the async clients, for `make generate`.

python -m tests.client.generate_blocking
"""

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "nsbroker" / "client"
SOURCES = {
    CLIENT / "async_calls.py": "Making calls with the blocking client, one or many at a time.",
    CLIENT / "async_methods.py": "The methods of the blocking client, and the watch.",
}
"""The files, and what the docstring of the blocking version says first."""

_REPLACEMENTS = (
    (r"\basync (def|with|for) ", r"\1 "),
    (r"\bawait ", ""),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\bAsync(Calls|Methods)\b", r"Blocking\1"),
    (r"\basync_(calls)\b", r"blocking_\1"),
    (r"\bAsync(Watch|DeviceFolder|OpenedTargets)\b", r"\1"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\bAn asynchronous iterator\b", "An iterator"),
    (r"\balso an asynchronous context manager\b", "also a context manager"),
    (r"\ban asynchronous context manager, and an asynchronous iterator\b", "a context manager, and an iterator"),
    (r"\bAnother task\b", "Another thread"),
)


def generated(source: Path) -> Path:
    """Return the path of the blocking version of `source`."""
    return source.with_name(source.name.replace("async_", "blocking_"))


def generate(source: Path) -> str:
    """Return the blocking version of the async code in `source`."""
    head = f'"""{SOURCES[source]}\n\nGenerated from `{source.stem}` by `make generate`: change that file instead.\n"""\n'
    text = re.sub(r'\A""".*?"""\n', lambda _: head, source.read_text(), flags=re.DOTALL)
    # The head names the source, so it stays as it is.
    text = head + _replace(text[len(head) :])
    command = [sys.executable, "-m", "ruff", "format", "--quiet", "--no-cache", "--stdin-filename", str(generated(source)), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def _replace(text: str) -> str:
    for pattern, replacement in _REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    return text


if __name__ == "__main__":
    for path in SOURCES:
        generated(path).write_text(generate(path))
