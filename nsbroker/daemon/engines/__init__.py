"""Container engines: one file for each, what they share, and the registry that queries them."""
