"""Generate the methods of the blocking client from those of the async clients, for `make generate`.

python -m tests.client.generate_blocking
"""

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "nsbroker" / "client"
SOURCE = CLIENT / "async_methods.py"
GENERATED = CLIENT / "blocking_methods.py"

_HEAD = '''"""The methods of the blocking client, and the watch.

Generated from `async_methods` by `make generate`: change that file instead.
"""
'''
_REPLACEMENTS = (
    (r'\A""".*?"""\n', _HEAD),
    (r"\basync (def|with|for) ", r"\1 "),
    (r"\bawait ", ""),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\bAsync(Methods)\b", r"Blocking\1"),
    (r"\bAsync(Watch|DeviceFolder)\b", r"\1"),
    (r"\ban asynchronous context manager, and an asynchronous iterator\b", "a context manager, and an iterator"),
    (r"\bAnother task\b", "Another thread"),
)


def generate(source: str) -> str:
    """Return the blocking version of the async methods in `source`."""
    for pattern, replacement in _REPLACEMENTS:
        source = re.sub(pattern, replacement, source, flags=re.DOTALL)
    command = [sys.executable, "-m", "ruff", "format", "--quiet", "--no-cache", "--stdin-filename", str(GENERATED), "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    GENERATED.write_text(generate(SOURCE.read_text()))
