"""Kernel interfaces, a file each: standard library only, raising plain OSError, each naming the kernel it needs.

x86-64 and aarch64 share every number used here.
"""
