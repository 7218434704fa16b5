"""The reward benchmark: what signals are worth, what they cost, and how close they come to what they approximate."""
