"""Make text from other people safe to print on one line."""

# The lone surrogates in which Python keeps bytes that are not valid UTF-8 (PEP 383).
_BYTES = range(0xDC80, 0xDD00)


def escaped(text: str) -> str:
    """Return `text` on one line, with every character escaped that is not printable (str.isprintable).

    These are control characters, including C1 and those that change the direction of text, line separators and lone
    surrogates.  A terminal could obey them, or show text in another order.  Anybody can put them into names, commands and
    paths.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(c: str) -> str:
    return f"\\x{ord(c) - 0xDC00:02x}" if ord(c) in _BYTES else c.encode("unicode_escape").decode("ascii")
