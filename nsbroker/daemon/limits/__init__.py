"""How much of the broker each user may use: connections, work under way, threads, records."""
