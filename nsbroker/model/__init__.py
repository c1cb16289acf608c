"""The words that all parts share, as data: what namespaces, targets and sockets are called, and how they are described.

Nothing here does any I/O.
"""
