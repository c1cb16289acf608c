"""Capabilities: see capabilities(7), and for the numbers the kernel's include/uapi/linux/capability.h."""

CAP_SYS_ADMIN = 1 << 21
