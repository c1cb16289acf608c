"""Capturing packets through a packet socket, without privilege, as a pcapng file that can be read while it grows."""

EVERY_INTERFACE = "any"
"""What stands for all interfaces of a network, as in tcpdump."""
