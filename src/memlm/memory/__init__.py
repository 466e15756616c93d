"""Memories: each selects slots of a bank for every token. One file per type; see docs/adding_a_memory.md."""
