"""Shared helpers: files, arrays on disk, random numbers, processes."""
