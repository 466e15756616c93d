"""Encoders: each turns an entry's tokens into a value. One file per type."""
