"""The environments, one per file, and the checker that holds any vector environment against the contract."""

from gar_env.envs.candidates.config import OptimizerSearchConfig
from gar_env.envs.candidates.optimizer_search import OptimizerSearchEnv, OptimizerSearchVectorEnv
from gar_env.envs.config import RowConfig, RunConfig, SharedConfig, SlotConfig, config_from
from gar_env.envs.features import Feature
from gar_env.envs.outcome import Episode, Outcome
from gar_env.envs.runs.base import Control, RunVectorEnv
from gar_env.envs.runs.instance_sets import FixedInstances
from gar_env.envs.runs.instance_tables import TableOfInstances
from gar_env.envs.runs.instances import INSTANCES, Instance, InstanceSet, register_instances
from gar_env.envs.runs.single import SingleRunEnv
from gar_env.envs.runs.statistics import FEATURES as STEP_SIZE_FEATURES
from gar_env.envs.runs.step_size import StepSizeConfig, StepSizeEnv, StepSizeVectorEnv
from gar_env.envs.shared import SharedNetworkEnv
from gar_env.envs.single import SingleAgentEnv
from gar_env.envs.slots.augment import AugmentConfig, AugmentEnv, AugmentVectorEnv
from gar_env.envs.slots.base import SlotBatch, SlotVectorEnv
from gar_env.envs.slots.data_split import DataSplitConfig, DataSplitEnv, DataSplitVectorEnv
from gar_env.envs.slots.data_weight import DataWeightConfig, DataWeightEnv, DataWeightVectorEnv
from gar_env.envs.slots.versions import (
    DataSplitV1Config,
    DataSplitV1Env,
    DataSplitV1VectorEnv,
    DataWeightV1Config,
    DataWeightV1Env,
    DataWeightV1VectorEnv,
)
from gar_env.envs.tasks.base import TaskVectorEnv, Updates
from gar_env.envs.tasks.config import GradientAgreementConfig
from gar_env.envs.tasks.gradient_agreement import GradientAgreementEnv, GradientAgreementVectorEnv
from gar_env.envs.vector import RowVectorEnv

__all__ = [
    "INSTANCES",
    "STEP_SIZE_FEATURES",
    "AugmentConfig",
    "AugmentEnv",
    "AugmentVectorEnv",
    "Control",
    "DataSplitConfig",
    "DataSplitEnv",
    "DataSplitV1Config",
    "DataSplitV1Env",
    "DataSplitV1VectorEnv",
    "DataSplitVectorEnv",
    "DataWeightConfig",
    "DataWeightEnv",
    "DataWeightV1Config",
    "DataWeightV1Env",
    "DataWeightV1VectorEnv",
    "DataWeightVectorEnv",
    "Episode",
    "Feature",
    "FixedInstances",
    "GradientAgreementConfig",
    "GradientAgreementEnv",
    "GradientAgreementVectorEnv",
    "Instance",
    "InstanceSet",
    "OptimizerSearchConfig",
    "OptimizerSearchEnv",
    "OptimizerSearchVectorEnv",
    "Outcome",
    "RowConfig",
    "RowVectorEnv",
    "RunConfig",
    "RunVectorEnv",
    "SharedConfig",
    "SharedNetworkEnv",
    "SingleAgentEnv",
    "SingleRunEnv",
    "SlotBatch",
    "SlotConfig",
    "SlotVectorEnv",
    "StepSizeConfig",
    "StepSizeEnv",
    "StepSizeVectorEnv",
    "TableOfInstances",
    "TaskVectorEnv",
    "Updates",
    "config_from",
    "register_instances",
]
