"""Adds a memory to a model that is there already, and trains nothing else."""
