"""Filling a bank of tokens from a database: its sentences become entries, each in a cell of the product keys."""
