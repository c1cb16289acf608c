"""The command `nsbroker`: `main` reads the command line and runs one of `commands`."""
