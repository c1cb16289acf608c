"""The command.  `main` is its entry; each subcommand is a file with `configure` (its arguments) and `run`."""

from nsbroker.cli.main import main

__all__ = ["main"]
