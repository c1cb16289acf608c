"""The configuration files: finding and checking them, and making settings of what is written in them.

How it is laid out, the lowest first:

    settings        what the files can say, as data
    problems        what is wrong, with the file, the line and the key
    locate          the lines of keys in a TOML file
    trusted_path    opening a file that nobody but trusted users could have changed
    files           which files are read, and which are not
    tables          from the tables of a file to settings, with mistakes in plain words
    loading         all files merged
"""

from nsbroker.daemon.configuration.files import NAME, SHIPPED
from nsbroker.daemon.configuration.loading import Parsed, Reading, load, read
from nsbroker.daemon.configuration.problems import Problem, error_of
from nsbroker.daemon.configuration.settings import (
    AuditSettings,
    Configuration,
    Limits,
    RuleText,
    SourcedRule,
    SourceFile,
    UnreadFile,
)

__all__ = [
    "NAME",
    "SHIPPED",
    "AuditSettings",
    "Configuration",
    "Limits",
    "Parsed",
    "Problem",
    "Reading",
    "RuleText",
    "SourceFile",
    "SourcedRule",
    "UnreadFile",
    "error_of",
    "load",
    "read",
]
