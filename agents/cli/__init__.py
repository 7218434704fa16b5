"""``gar-env``: the command line."""

import sys

try:
    import rich  # noqa: F401
    import tyro  # noqa: F401
except ImportError as error:
    sys.exit(f"gar-env: the command line needs extra packages ({error}): pip install 'gar-env[cli]'.")

from agents.cli.main import main

__all__ = ["main"]
