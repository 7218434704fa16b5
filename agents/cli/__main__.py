"""``python -m agents.cli``."""

from agents.cli import main

main()
