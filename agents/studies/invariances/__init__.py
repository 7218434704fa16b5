"""A benchmark with a known answer."""
