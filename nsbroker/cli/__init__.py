"""The command: `main` reads the command line; each subcommand is a file with `configure` (its arguments) and `run`."""
