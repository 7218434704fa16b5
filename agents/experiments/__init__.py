"""Experiments: one file per table, a runner, results as JSON lines."""
