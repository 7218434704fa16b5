"""The command ``gar-env``: makes sure that the package ``agents`` is ours before anything of it is imported."""

from __future__ import annotations

import importlib
import sys


def main() -> None:
    """Entry point of ``gar-env``.

    The import name ``agents`` is also that of other packages, and whichever is installed last puts its files there.
    """
    try:
        agents = importlib.import_module("agents")
        ours = getattr(agents, "DISTRIBUTION", None) == "gar-env"
        where = ", ".join(getattr(agents, "__path__", ["an unknown place"]))
        problem = "" if ours else f"The package 'agents' in {where} is another project's, not gar-env's"
    except Exception as error:  # of somebody else's package
        problem = f"The package 'agents' is another project's, or broken ({type(error).__name__}: {error})"
    if problem:
        print(
            f"gar-env: {problem}: both install under that name. Install gar-env in an environment of its own.",
            file=sys.stderr,
        )
        sys.exit(2)
    importlib.import_module("agents.cli").main()
