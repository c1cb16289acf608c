"""The two parts of systemd that the broker talks to: the service manager and the journal."""
