"""Looking into a trained memory: what reads a slot, what a slot holds, and who wrote it."""
