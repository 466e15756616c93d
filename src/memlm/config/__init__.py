"""Configurations: frozen, strict, and every problem told at once with its place in the file."""
