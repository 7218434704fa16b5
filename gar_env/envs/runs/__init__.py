"""Runs: rows are whole training runs, each with a network of its own; they end apart."""
