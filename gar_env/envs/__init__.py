"""The environments, one per file, and the checker that holds any vector environment against the contract."""

from gar_env.envs.augment import AugmentConfig, AugmentEnv, AugmentVectorEnv
from gar_env.envs.base import SlotVectorEnv
from gar_env.envs.config import SlotConfig, config_from
from gar_env.envs.data_split import DataSplitConfig, DataSplitEnv, DataSplitVectorEnv
from gar_env.envs.data_weight import DataWeightConfig, DataWeightEnv, DataWeightVectorEnv
from gar_env.envs.paying import Trained
from gar_env.envs.single import SingleAgentEnv

__all__ = [
    "AugmentConfig",
    "AugmentEnv",
    "AugmentVectorEnv",
    "DataSplitConfig",
    "DataSplitEnv",
    "DataSplitVectorEnv",
    "DataWeightConfig",
    "DataWeightEnv",
    "DataWeightVectorEnv",
    "SingleAgentEnv",
    "SlotConfig",
    "SlotVectorEnv",
    "Trained",
    "config_from",
]
