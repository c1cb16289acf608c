"""The subcommands, one file for each.

Each module has HELP (its first line is the summary that `nsbroker --help` lists), EXAMPLE (a command line), `configure` (adds
the arguments to a parser) and `run` (runs the command and returns the exit code).
"""
