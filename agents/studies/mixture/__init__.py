"""Learned mixtures of text sources."""
