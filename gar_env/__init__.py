"""The inner training loop of a neural network as Gymnasium environments, paid by gradient alignment.

Importing the package registers its environments: ``gymnasium.make_vec("GAR/DataSplit-v0", num_envs=128)``.
"""

from gar_env.registration import register_environments
from gar_env.rewards import RewardSignal, register_reward

__all__ = ["RewardSignal", "register_environments", "register_reward"]
__version__ = "0.1.0"

register_environments()
