"""The decoder and its parts. This room's `config` is free of torch."""
