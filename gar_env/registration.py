"""The table of environment ids. ``import gar_env`` registers them all."""

from __future__ import annotations

import gymnasium

# id -> (class of the single-agent view, class of the vector environment), both in gar_env.envs
ENVIRONMENTS = {
    "GAR/DataSplit-v0": ("slots.data_split:DataSplitEnv", "slots.data_split:DataSplitVectorEnv"),
    "GAR/DataSplit-v1": ("slots.versions:DataSplitV1Env", "slots.versions:DataSplitV1VectorEnv"),
    "GAR/Augment-v0": ("slots.augment:AugmentEnv", "slots.augment:AugmentVectorEnv"),
    "GAR/StepSize-v0": ("runs.step_size:StepSizeEnv", "runs.step_size:StepSizeVectorEnv"),
    "GAR/GradientAgreement-v0": (
        "tasks.gradient_agreement:GradientAgreementEnv",
        "tasks.gradient_agreement:GradientAgreementVectorEnv",
    ),
    "GAR/OptimizerSearch-v0": (
        "candidates.optimizer_search:OptimizerSearchEnv",
        "candidates.optimizer_search:OptimizerSearchVectorEnv",
    ),
    "GAR/DataWeight-v0": ("slots.data_weight:DataWeightEnv", "slots.data_weight:DataWeightVectorEnv"),
    "GAR/DataWeight-v1": ("slots.versions:DataWeightV1Env", "slots.versions:DataWeightV1VectorEnv"),
}


def register_environments() -> None:
    """Make every id known to Gymnasium; a second call changes nothing."""
    for name, (single, vector) in ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point=f"gar_env.envs.{single}",
                vector_entry_point=f"gar_env.envs.{vector}",
            )
