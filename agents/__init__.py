"""Controllers for :mod:`gar_env`, and the studies that use them; loaded when they are first asked for."""

import lazy_loader

import gar_env  # noqa: F401 - registers the environments

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

DISTRIBUTION = "gar-env"
"""Other packages are imported as ``agents`` too; this tells ours."""
