"""Candidates: a row writes an update rule."""
