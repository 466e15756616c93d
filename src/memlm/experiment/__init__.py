"""Experiments: variants x seeds + hypotheses, their runs and their records."""
