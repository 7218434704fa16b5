"""The paper's table 1 and figure 2."""
