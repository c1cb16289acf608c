"""One line of `nsbroker doctor`."""

import enum

from msgspec import Struct


class Verdict(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """Something does not work as it could, or is not as it seems to be meant."""
    FAIL = "fail"
    """The broker cannot be used, or not as it should."""


class Row(Struct, frozen=True):
    """What one check found.  `advice` says what to do; it is empty where nothing is to be done, or where `text` says it."""

    verdict: Verdict
    subject: str
    text: str
    advice: str = ""
