"""Memory-augmented language models: train, compare, inspect and ship them, with evidence."""

__version__ = "0.1.0"
