"""Checkpoint folders, read from headers alone. Others take `locate`, `headers`, `verify`, `readable`, `kernels` and `shape`."""
