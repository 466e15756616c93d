"""Banks: each holds the values that memories read. One file per type."""
