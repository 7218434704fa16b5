"""Controllers that others wrote."""
