"""Kernel interfaces, one file each.

These modules use only the standard library, raise plain OSError, and name the Linux version that each call needs.  The
numbers are the same on x86-64 and aarch64, except in `credentials` and `seccomp_filter`, which have tables by architecture.
"""
