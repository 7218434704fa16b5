from .agreement import (
    combine as combine,
    register_agreement_rule as register_agreement_rule,
    task_weights as task_weights,
)
from .alignment import (
    Alignment as Alignment,
    align as align,
    aligning as aligning,
    example_lengths as example_lengths,
    gradient as gradient,
    record as record,
    register_example_gradients as register_example_gradients,
    register_output_tangent as register_output_tangent,
    try_ways as try_ways,
)
from .augment import (
    Plan as Plan,
    SearchSpace as SearchSpace,
    apply as apply,
    load_space as load_space,
    register_backend as register_backend,
    register_op as register_op,
    register_space as register_space,
)
from .checks import (
    check_reward as check_reward,
    check_rule as check_rule,
    check_rule_part as check_rule_part,
    check_stacked_layer as check_stacked_layer,
    check_update_rule as check_update_rule,
)
from .data import (
    Dataset as Dataset,
    load_dataset as load_dataset,
    make_splits as make_splits,
    register_corruption as register_corruption,
    register_dataset as register_dataset,
)
from .envs import (
    AugmentConfig as AugmentConfig,
    DataSplitConfig as DataSplitConfig,
    DataWeightConfig as DataWeightConfig,
    RowConfig as RowConfig,
    RowVectorEnv as RowVectorEnv,
    RunConfig as RunConfig,
    RunVectorEnv as RunVectorEnv,
    SharedConfig as SharedConfig,
    SharedNetworkEnv as SharedNetworkEnv,
    SlotConfig as SlotConfig,
    SlotVectorEnv as SlotVectorEnv,
    TaskVectorEnv as TaskVectorEnv,
)
from .envs.checks import (
    check_vector_env as check_vector_env,
)
from .learner import (
    LearnerStack as LearnerStack,
    TrainingOptions as TrainingOptions,
    register_loss as register_loss,
    register_stacked_layer as register_stacked_layer,
    register_update_rule as register_update_rule,
)
from .networks import (
    build_network as build_network,
    register_network as register_network,
)
from .optimizers import (
    Rule as Rule,
    RuleOptimizer as RuleOptimizer,
    register_binary as register_binary,
    register_operand as register_operand,
    register_unary as register_unary,
)
from .optimizers.child_rewards import (
    register_child_reward as register_child_reward,
)
from .registration import register_environments as register_environments
from .rewards import (
    Evidence as Evidence,
    Need as Need,
    RewardSignal as RewardSignal,
    register_reward as register_reward,
)
from .rewards.reference_weights import (
    register_reference_weight as register_reference_weight,
)
from .values import (
    Values as Values,
    value as value,
)

__version__: str
