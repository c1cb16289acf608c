"""The command: `main` reads the command line; each subcommand is a file with HELP, `configure` (its arguments) and `run`."""
