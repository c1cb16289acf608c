"""Scanning the host for namespaces, finding how they are related, and deciding which of them a peer may see."""
