"""Stable-Baselines3 on these environments: an adapter, late rewards for on-policy agents, saving and loading.

Example:
    >>> from stable_baselines3 import PPO
    >>> from agents.sb3 import make_sb3_env
    >>> env = make_sb3_env("GAR/DataSplit-v1", num_envs=32, num_steps=8)
    >>> model = PPO("MlpPolicy", env, n_steps=4, batch_size=64, gamma=0.0).learn(32 * 8)
    >>> model.num_timesteps
    256
"""

from gar_env.errors import MissingExtraError

try:
    import stable_baselines3  # noqa: F401
except ImportError as error:
    raise MissingExtraError(
        f"agents.sb3 needs Stable-Baselines3, which cannot be imported ({error}): pip install 'gar-env[sb3]'."
    ) from error

from agents.sb3.checks import check_controller
from agents.sb3.shifted import ShiftedRolloutBuffer
from agents.sb3.storage import load_controller, save_controller
from agents.sb3.vec_env import SB3VecEnv, make_sb3_env

__all__ = [
    "SB3VecEnv",
    "ShiftedRolloutBuffer",
    "check_controller",
    "load_controller",
    "make_sb3_env",
    "save_controller",
]
