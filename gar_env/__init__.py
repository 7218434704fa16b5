"""The inner training loop of a neural network as Gymnasium environments, paid by gradient alignment.

Importing the package registers its environments: ``gymnasium.make_vec("GAR/DataSplit-v1", num_envs=128)``. Its public
names, listed in ``__init__.pyi``, are loaded when they are first asked for, and torch with them.
"""

import lazy_loader

from gar_env.registration import register_environments

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"

register_environments()
