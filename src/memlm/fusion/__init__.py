"""Fusions: each joins what a memory read to the residual stream. One file per type; see docs/adding_a_memory.md."""
