"""The paper's table 2."""
