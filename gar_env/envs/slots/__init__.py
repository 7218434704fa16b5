"""Slots: rows are places in a mini-batch of one shared network."""
