"""Edits of what a trained memory holds: as data, applied to the bank and undone bit for bit."""
