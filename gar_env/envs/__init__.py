"""The environments, one per file, and the checker that holds any vector environment against the contract."""

from gar_env.envs.config import SlotConfig, config_from
from gar_env.envs.single import SingleAgentEnv
from gar_env.envs.slots.augment import AugmentConfig, AugmentEnv, AugmentVectorEnv
from gar_env.envs.slots.base import SlotBatch, SlotVectorEnv
from gar_env.envs.slots.data_split import DataSplitConfig, DataSplitEnv, DataSplitVectorEnv
from gar_env.envs.slots.data_weight import DataWeightConfig, DataWeightEnv, DataWeightVectorEnv
from gar_env.envs.vector import Outcome, RowVectorEnv

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
    "Outcome",
    "RowVectorEnv",
    "SingleAgentEnv",
    "SlotBatch",
    "SlotConfig",
    "SlotVectorEnv",
    "config_from",
]
