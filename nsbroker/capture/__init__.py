"""Capturing packets through a packet socket, without privilege, as a pcapng file that can be read while it grows."""
