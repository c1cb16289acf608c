"""Plain data that all layers share: types and ids of namespaces, targets, kinds of sockets, and descriptions of namespaces.

Nothing here does any I/O.
"""
