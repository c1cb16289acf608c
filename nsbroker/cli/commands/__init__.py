"""The subcommands, a file each: HELP, `configure` (adds its arguments) and `run` (returns the exit code)."""
