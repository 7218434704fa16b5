"""Tasks: rows are tasks of a meta-batch, and share the network that is adapted to each."""
