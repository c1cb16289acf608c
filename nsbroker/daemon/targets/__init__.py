"""Resolving a target, as it is written, to a pinned process or namespace."""
